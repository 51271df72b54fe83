/* share: the same bytes in two processes, without a copy.
 *
 *     cc share.c $(pkg-config --cflags --libs tensord) -o share
 *     ./share                              the default socket, or TENSORD_URL
 *     ./share tcp://127.0.0.1:7071         works as well, but everything is copied
 *
 * It stores a matrix, maps it, makes a tensor that may be written, writes into that through a
 * mapping, and reads the bytes back through the daemon.
 */
#include <stdio.h>
#include <stdlib.h>

#include <tensord.h>

#define ROWS 1000
#define COLUMNS 1000

/* Every function that can fail returns a status; the text is per thread. */
static void check(enum td_status status, const char *what)
{
    if (status == TD_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, td_status_name((int)status), td_last_error());
    exit(1);
}

/* Says whether the bytes are the daemon's own, and if they are not, why. */
static void print_memory(const char *what, const struct td_info *info)
{
    printf("%-28s %-8s %lld bytes, %s, memory %s%s%s\n", what, td_dtype_name((int)info->dtype),
           (long long)info->nbytes, info->mode, info->memory, *info->reason ? ": " : "",
           info->reason);
}

/* A frozen tensor: stored complete, and then nobody can change it. */
static void share_frozen(struct td_client *client)
{
    const int64_t shape[] = {ROWS, COLUMNS};
    float *values = malloc(sizeof(float) * ROWS * COLUMNS);
    if (!values)
        exit(1);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        values[i] = (float)i;
    check(td_put(client, "example/frozen", TD_FLOAT32, 2, shape, values, 0, NULL), "put");
    free(values);

    /* Any process that maps it sees these same pages, read-only. */
    struct td_mapping *mapping;
    check(td_map(client, "example/frozen", 0, &mapping), "map");
    const struct td_info *info = td_mapping_info(mapping);
    print_memory(info->name, info);

    const float *data = td_mapping_data(mapping);
    /* Strides count elements; a view (a slice, a transpose) has others than a fresh matrix. */
    printf("  element [2, 3] is %g\n", (double)data[2 * info->strides[0] + 3 * info->strides[1]]);
    td_unmap(mapping);
}

/* A mutable tensor: whoever maps it may write, and all see it. */
static void share_mutable(struct td_client *client)
{
    const int64_t shape[] = {ROWS, COLUMNS};
    /* Any operation of the table goes by name with named arguments. A setter that fails makes the
     * call that uses the arguments fail, so that one check is enough. */
    struct td_args *args = td_args_new();
    td_args_text(args, "output", "example/mutable");
    td_args_dims(args, "shape", 2, shape);
    td_args_dtype(args, TD_FLOAT32);
    td_args_bool(args, "mutable", true);
    check(td_op(client, "zeros", args, NULL, 0, NULL), "zeros");
    td_args_free(args);

    struct td_mapping *mapping;
    check(td_map(client, "example/mutable", TD_MAP_WRITE, &mapping), "map for writing");
    print_memory(td_mapping_info(mapping)->name, td_mapping_info(mapping));
    float *data = td_mapping_data(mapping);
    data[7] = 42;
    /* Watchers and caches learn of it; the bytes themselves are there already. */
    check(td_touch(client, "example/mutable"), "touch");

    float *copy = malloc(sizeof(float) * ROWS * COLUMNS);
    size_t size = sizeof(float) * ROWS * COLUMNS;
    if (!copy)
        exit(1);
    check(td_get(client, "example/mutable", TD_DTYPE_NONE, copy, &size, NULL), "get");
    printf("  element [0, 7] is %g after a write through the mapping\n", (double)copy[7]);
    free(copy);
    td_unmap(mapping);
}

/* Memory of this process that becomes a tensor: writes on either side show on the other. */
static void share_own(struct td_client *client)
{
    const int64_t shape[] = {ROWS};
    double *own = td_shared_alloc(sizeof(double) * ROWS);
    if (!own) {
        perror("td_shared_alloc");
        exit(1);
    }
    struct td_reply *reply;
    struct td_info info;
    check(td_from_memory(client, "example/own", TD_FLOAT64, 1, shape, NULL, own, false, &reply),
          "from_memory");
    check(td_reply_info(reply, &info), "from_memory");
    print_memory(info.name, &info);
    td_reply_free(reply);

    struct td_args *args = td_args_new();
    td_args_text(args, "input", "example/own");
    td_args_scalar_float(args, "value", 0.5);
    check(td_op(client, "fill_", args, NULL, 0, NULL), "fill_");
    td_args_free(args);
    printf("  the daemon filled it with 0.5, and here it is %g\n", own[0]);
    td_shared_free(own); /* the daemon keeps the memory for as long as the tensor needs it */
}

int main(int count, char **arguments)
{
    struct td_client *client;
    check(td_connect(count > 1 ? arguments[1] : NULL, NULL, &client), "connect");
    printf("libtensord %s, %s\n", td_version(),
           td_is_local(client) ? "sharing memory with the daemon" : "over the network: copies");
    share_frozen(client);
    share_mutable(client);
    share_own(client);
    td_close(client);
    return 0;
}
