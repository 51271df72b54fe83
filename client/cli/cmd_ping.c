/* ping: how fast the daemon answers. */
#include "client/cli/commands.h"
#include "client/cli/output.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define COUNT_MAX 1000000 /* times that are kept for the median */

struct ping {
    struct cli *cli;
    const char *where;
    size_t size;
    uint64_t count, answered;
    uint64_t *times_ns; /* of `answered`, in the order they came */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double as_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static enum td_status ping_once(struct ping *ping, const void *body)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    size_t size;
    uint64_t begun = now_ns();
    TRY(td_op(ping->cli->client, "ping", NULL, body, ping->size, &reply));
    uint64_t took = now_ns() - begun;
    const void *echo = td_reply_body(reply, &size);
    if (size != ping->size || (size > 0 && memcmp(echo, body, size) != 0))
        return fail(TD_PROTOCOL, "the answer is not what was sent");
    ping->times_ns[ping->answered++] = took;
    if (!cli_has(ping->cli, OPTION_JSON) && !cli_has(ping->cli, OPTION_QUIET))
        printf("%zu bytes from %s: seq=%" PRIu64 " time=%.3f ms\n", size, ping->where,
               ping->answered, as_ms(took));
    return cli_check_output();
}

static int compare_times(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static enum td_status print_summary(struct ping *ping)
{
    uint64_t *times = ping->times_ns, n = ping->answered;
    qsort(times, n, sizeof *times, compare_times);
    double least = n ? as_ms(times[0]) : 0, most = n ? as_ms(times[n - 1]) : 0;
    double median = n ? (as_ms(times[(n - 1) / 2]) + as_ms(times[n / 2])) / 2 : 0;
    if (!cli_has(ping->cli, OPTION_JSON)) {
        printf("%" PRIu64 " answered, min/median/max = %.3f/%.3f/%.3f ms\n", n, least, median,
               most);
        return TD_OK;
    }
    cJSON *object = cJSON_CreateObject();
    bool good = object && cJSON_AddStringToObject(object, "from", ping->where) &&
                cJSON_AddNumberToObject(object, "bytes", (double)ping->size) &&
                cJSON_AddNumberToObject(object, "answered", (double)n) &&
                cJSON_AddNumberToObject(object, "min_ms", least) &&
                cJSON_AddNumberToObject(object, "median_ms", median) &&
                cJSON_AddNumberToObject(object, "max_ms", most);
    if (!good) {
        cJSON_Delete(object);
        return json_print(NULL);
    }
    return json_print(object);
}

static enum td_status ping_all(struct ping *ping, uint64_t interval_ms)
{
    char body[65536];
    for (size_t i = 0; i < ping->size; i++)
        body[i] = (char)i;
    for (uint64_t i = 0; i < ping->count && !signals_caught(); i++) {
        if (i > 0)
            signals_sleep(interval_ms);
        if (signals_caught())
            break;
        enum td_status status = ping_once(ping, body);
        if (status == TD_CANCELLED && signals_caught())
            break;
        TRY(status);
    }
    return print_summary(ping);
}

/* What the answers come from, for people. */
static const char *address(const struct cli *cli)
{
    const char *given[] = {cli->options[OPTION_URL], getenv("TENSORD_URL"),
                           getenv("TENSORD_SOCKET")};
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++)
        if (given[i] && *given[i])
            return given[i];
    return "tensord";
}

enum td_status cmd_ping(struct cli *cli)
{
    struct ping ping = {.cli = cli, .where = address(cli)};
    uint64_t interval_ms, size;
    TRY(cli_number(cli, OPTION_COUNT, 1, COUNT_MAX, 5, &ping.count));
    TRY(cli_number(cli, OPTION_SIZE, 0, 65536, 64, &size));
    TRY(cli_duration(cli, OPTION_INTERVAL, 200, &interval_ms));
    TRY(cli_connect(cli));
    ping.size = (size_t)size;
    ping.times_ns = calloc(ping.count, sizeof *ping.times_ns);
    if (!ping.times_ns)
        return fail(TD_OUT_OF_MEMORY, "no memory for %" PRIu64 " times", ping.count);
    signals_gentle();
    enum td_status status = ping_all(&ping, interval_ms);
    free(ping.times_ns);
    return status;
}
