#include "server/options.h"

#include "core/cleanup.h"
#include "core/ledger.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define THREADS_MAX 1024

enum option_kind {
    KIND_TEXT,
    KIND_LIST, /* each one is added to those of the same source, by colons */
    KIND_SIZE,
    KIND_QUOTA,
    KIND_COUNT,
    KIND_THREADS,
    KIND_OCTAL,
    KIND_MILLISECONDS,
    KIND_SWITCH
};

struct option_row {
    const char *name; /* --name, TENSORD_NAME, name = in the file */
    enum option_kind kind;
    size_t offset;
    const char *fallback; /* the default; NULL: computed, see default_text */
    const char *argument; /* in --help */
    const char *meaning;
};

/* X(name, member, kind, default, argument, meaning) */
#define OPTIONS(X)                                                                                 \
    X("config", config, TEXT, "", "FILE", "read settings from FILE (lines of name = value)")       \
    X("socket", socket, TEXT, NULL, "PATH", "Unix socket; \"\" for none")                          \
    X("socket-mode", socket_mode, OCTAL, "0600", "MODE", "permissions of the socket")              \
    X("tcp", tcp, TEXT, "127.0.0.1:7071", "HOST:PORT",                                             \
      "TCP address; port 0 takes a free one; \"\" for none")                                       \
    X("http", http, TEXT, "127.0.0.1:7070", "HOST:PORT",                                           \
      "address for HTTP; port 0 takes a free one; \"\" for none")                                  \
    X("http-hosts", http_hosts, TEXT, "", "NAMES",                                                 \
      "names that Host may have besides localhost and addresses, by commas")                       \
    X("http-origins", http_origins, TEXT, "", "URLS",                                              \
      "web pages that browsers may call HTTP from, by commas")                                     \
    X("token-file", token_file, TEXT, "", "FILE",                                                  \
      "clients must give the secret in FILE's first line")                                         \
    X("load-dir", load_dirs, LIST, "", "DIRS",                                                     \
      "whoever may connect may load files below these by their path; by colons, or repeated")      \
    X("save-dir", save_dirs, LIST, "", "DIRS", "the same for saving files there")                  \
    X("log-format", log_format, TEXT, "plain", "FORMAT", "plain or json")                          \
    X("memory-limit", memory_limit, SIZE, NULL, "BYTES", "of all tensors, with the pool")          \
    X("pool-limit", pool_limit, SIZE, NULL, "BYTES", "of memory kept for reuse")                   \
    X("max-body", max_body, SIZE, NULL, "BYTES", "of one request")                                 \
    X("max-descriptors", max_descriptors, COUNT, NULL, "N", "memory descriptors held")             \
    X("max-names", max_names, COUNT, "1000000", "N", "names in the store")                         \
    X("max-queues", max_queues, COUNT, "1024", "N", "queues")                                      \
    X("max-connections", max_connections, COUNT, "1024", "N", "open connections, and sessions")    \
    X("http-connections", http_connections, COUNT, NULL, "N", "open HTTP connections")             \
    X("http-per-address", http_per_address, COUNT, "4096", "N",                                    \
      "open HTTP connections of one client address")                                               \
    X("http-sessions", http_sessions, COUNT, "1024", "N", "sessions over HTTP")                    \
    X("max-objects", max_objects, COUNT, "100000", "N", "anonymous objects of a session")          \
    X("max-leases", max_leases, COUNT, "65536", "N", "mappings of a session")                      \
    X("quota-bytes", quotas[QUOTA_BYTES], QUOTA, "0", "BYTES",                                     \
      "of tensors that one user holds; 0: as memory-limit. uid 65534 may have half of each quota") \
    X("quota-names", quotas[QUOTA_NAMES], QUOTA, "0", "N", "names of one user; 0: as max-names")   \
    X("quota-leases", quotas[QUOTA_LEASES], QUOTA, "0", "N",                                       \
      "leases of one user; 0: as four sessions' max-leases")                                       \
    X("quota-queue-bytes", quotas[QUOTA_QUEUE_BYTES], QUOTA, "0", "BYTES",                         \
      "in queues of one user; 0: as memory-limit")                                                 \
    X("quota-descriptors", quotas[QUOTA_DESCRIPTORS], QUOTA, "0", "N",                             \
      "memory descriptors of one user; 0: as max-descriptors")                                     \
    X("quota-connections", quotas[QUOTA_CONNECTIONS], QUOTA, "0", "N",                             \
      "connections of one user to the sockets; 0: as max-connections, but for a sixteenth")        \
    X("max-inflight", max_inflight, COUNT, "64", "N", "requests of a connection at a time")        \
    X("max-queued", max_queued, COUNT, "4096", "N", "operations that wait for a job thread")       \
    X("max-watches", max_watches, COUNT, "4096", "N",                                              \
      "requests that wait for names, or watch them; of one user, all but a sixteenth")             \
    X("io-threads", io_threads, THREADS, "2", "N", "threads that serve connections")               \
    X("http-threads", http_threads, THREADS, "1", "N", "threads that serve HTTP")                  \
    X("threads", threads, THREADS, NULL, "N", "for casts and copies: one for each CPU, 2 to 16")   \
    X("hello-timeout-ms", hello_timeout_ms, MILLISECONDS, "10000", "MS",                           \
      "for a new connection to say hello")                                                         \
    X("io-timeout-ms", io_timeout_ms, MILLISECONDS, "30000", "MS",                                 \
      "without a byte's progress in the middle of a frame")                                        \
    X("header-timeout-ms", header_timeout_ms, MILLISECONDS, "10000", "MS",                         \
      "for the head of an HTTP request, from its first byte")                                      \
    X("idle-timeout-ms", idle_timeout_ms, MILLISECONDS, "75000", "MS",                             \
      "of an HTTP connection between requests")                                                    \
    X("min-rate", min_rate, SIZE, "1024", "BYTES",                                                 \
      "a second that an HTTP transfer must make, over ten seconds")                                \
    X("session-ttl-ms", session_ttl_ms, MILLISECONDS, "300000", "MS",                              \
      "that an HTTP session lives unused")                                                         \
    X("drain-timeout-ms", drain_timeout_ms, MILLISECONDS, "10000", "MS",                           \
      "for requests in flight when the daemon is told to stop")                                    \
    X("help", help, SWITCH, NULL, NULL, "print this and exit")                                     \
    X("version", version, SWITCH, NULL, NULL, "print the version and exit")

static const struct option_row rows[] = {
#define OPTION_ROW(name, member, kind, fallback, argument, meaning)                                \
    {name, KIND_##kind, offsetof(struct options, member), fallback, argument, meaning},
    OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};

#define ROWS (sizeof rows / sizeof rows[0])

/* Where settings come from, the strongest first. */
enum source { SOURCE_NONE, SOURCE_FLAG, SOURCE_ENVIRONMENT, SOURCE_FILE, SOURCE_DEFAULT };

/* By whom each is set. A weaker source changes nothing; of the same one the last word counts, but
 * for lists. */
static enum source set_by[ROWS];
/* Texts, which live as long as the process. */
static char *texts[ROWS];

/* --no-socket and the like mean the empty text. */
static const char *const negations[] = {"no-socket", "no-tcp", "no-http"};

/* How many the process may have open; it raises the limit as far as it may (main.c). */
static uint64_t open_files_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1024;
    return limit.rlim_max < 1000000 ? limit.rlim_max : 1000000;
}

/* Whoever opens all of these leaves enough for the sockets and for shared memory. */
static uint64_t http_connection_limit(void)
{
    uint64_t eighth = open_files_limit() / 8;
    return eighth < 64 ? 64 : eighth < 4096 ? eighth : 4096;
}

/* What connections can take is set aside: of the sockets by default 1024, each with a descriptor
 * that is on its way; and of HTTP. A storage that is shared has two. */
static uint64_t descriptor_limit(void)
{
    uint64_t usable = open_files_limit(), aside = 2 * 1024 + http_connection_limit() + 128;
    return usable < 4096 ? 256 : (usable - aside) / 2;
}

/* Two at least, so that a long operation does not hold up all others; more than memory can feed
 * would only be in the way of who computes with the tensors. */
static unsigned thread_count(void)
{
    cpu_set_t set;
    int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 2;
    return cpus < 2 ? 2 : cpus > 16 ? 16 : (unsigned)cpus;
}

/* The defaults that depend on the machine, as text, so that --help shows what parses. */
static const char *default_text(const struct option_row *row, char *buffer, size_t size)
{
    if (row->fallback)
        return row->fallback;
    uint64_t memory = ledger_default_limit();
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (strcmp(row->name, "socket") == 0)
        snprintf(buffer, size, "%s/tensord.sock", runtime && *runtime ? runtime : "/run");
    else if (strcmp(row->name, "pool-limit") == 0)
        snprintf(buffer, size, "%llu", (unsigned long long)memory / 4);
    else if (strcmp(row->name, "max-descriptors") == 0)
        snprintf(buffer, size, "%llu", (unsigned long long)descriptor_limit());
    else if (strcmp(row->name, "http-connections") == 0)
        snprintf(buffer, size, "%llu", (unsigned long long)http_connection_limit());
    else if (strcmp(row->name, "threads") == 0)
        snprintf(buffer, size, "%u", thread_count());
    else
        snprintf(buffer, size, "%llu", (unsigned long long)memory);
    return buffer;
}

/* "64MiB", "1GB", "100k", "4096": powers of 1024 with an i, of 1000 without. */
static bool parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "kMGT";
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*text))
        return false;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno)
        return false;
    const char *unit = *end ? strchr(units, *end == 'K' ? 'k' : *end) : NULL;
    uint64_t factor = 1;
    if (unit) {
        bool binary = end[1] == 'i';
        for (const char *u = units; u <= unit; u++)
            factor *= binary ? 1024 : 1000;
        end += binary ? 2 : 1;
    }
    if (*end == 'B')
        end++;
    return *end == '\0' && !__builtin_mul_overflow((uint64_t)number, factor, out);
}

static bool parse_number(const char *text, int base, uint64_t *out)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*text))
        return false;
    *out = strtoull(text, &end, base);
    return !errno && *end == '\0';
}

/* Keeps a text; a list's goes on where `before`, of the same source, ends. */
static enum td_status set_text(size_t i, const char *given, const char *before, const char **slot)
{
    char *text = NULL;
    if (asprintf(&text, "%s%s%s", before, *before ? ":" : "", given) < 0)
        return fail(TD_OUT_OF_MEMORY, "no memory for the settings");
    free(texts[i]);
    *slot = texts[i] = text;
    return TD_OK;
}

/* `where` is the source in words, for the error. */
static enum td_status set(struct options *options, size_t i, const char *given, enum source source,
                          const char *where)
{
    static const char *const expected[] = {
        [KIND_SIZE] = "a size such as 4096, 64MiB or 1GiB",
        [KIND_QUOTA] = "a number or a size such as 64MiB; 0 for the default",
        [KIND_COUNT] = "a number, 1 or more",
        [KIND_THREADS] = "a number of threads, 1 to 1024",
        [KIND_OCTAL] = "an octal mode such as 0600",
        [KIND_MILLISECONDS] = "a number of milliseconds, 1 or more",
    };
    const struct option_row *row = &rows[i];
    void *slot = (char *)options + row->offset;
    bool again = set_by[i] == source;
    if (set_by[i] != SOURCE_NONE && !again)
        return TD_OK;
    set_by[i] = source;
    bool good = true;
    switch (row->kind) {
    case KIND_TEXT:
        return set_text(i, given, "", slot);
    case KIND_LIST:
        return set_text(i, given, again ? texts[i] : "", slot);
    case KIND_SIZE:
    case KIND_QUOTA:
        good = parse_size(given, slot);
        break;
    case KIND_OCTAL:
        good = parse_number(given, 8, slot) && *(uint64_t *)slot <= 0777;
        break;
    case KIND_THREADS:
    case KIND_COUNT:
    case KIND_MILLISECONDS:
        good = parse_number(given, 10, slot) && *(uint64_t *)slot > 0 &&
               *(uint64_t *)slot <= (row->kind == KIND_THREADS ? THREADS_MAX : UINT32_MAX);
        break;
    case KIND_SWITCH:
        *(bool *)slot = true;
        break;
    }
    if (!good)
        return fail(TD_INVALID, "%s: '%s' is not a value for %s; expected %s", where, given,
                    row->name, expected[row->kind]);
    return TD_OK;
}

/* The row of a name, ROWS if there is none. Underscores count as dashes. */
static size_t find_row(const char *name, size_t length)
{
    for (size_t i = 0; i < ROWS; i++) {
        size_t k = 0;
        while (k < length && rows[i].name[k] &&
               (name[k] == rows[i].name[k] || (name[k] == '_' && rows[i].name[k] == '-')))
            k++;
        if (k == length && !rows[i].name[k])
            return i;
    }
    return ROWS;
}

static enum td_status parse_flag(struct options *options, char **argv, int *i)
{
    const char *flag = argv[*i] + 2;
    for (size_t n = 0; n < sizeof negations / sizeof negations[0]; n++)
        if (strcmp(flag, negations[n]) == 0)
            return set(options, find_row(flag + 3, strlen(flag + 3)), "", SOURCE_FLAG,
                       "command line");
    const char *equals = strchr(flag, '=');
    size_t row = find_row(flag, equals ? (size_t)(equals - flag) : strlen(flag));
    if (row == ROWS)
        return fail(TD_INVALID, "unknown flag %s; tensord --help lists them", argv[*i]);
    if (rows[row].kind == KIND_SWITCH)
        return set(options, row, "", SOURCE_FLAG, "command line");
    if (equals)
        return set(options, row, equals + 1, SOURCE_FLAG, "command line");
    if (!argv[*i + 1])
        return fail(TD_INVALID, "--%s needs a value: --%s %s", rows[row].name, rows[row].name,
                    rows[row].argument);
    return set(options, row, argv[++*i], SOURCE_FLAG, "command line");
}

static enum td_status parse_environment(struct options *options)
{
    for (size_t i = 0; i < ROWS; i++) {
        char name[64] = "TENSORD_";
        size_t k = strlen(name);
        for (const char *c = rows[i].name; *c; c++)
            name[k++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        const char *value = getenv(name);
        if (value && rows[i].kind != KIND_SWITCH)
            TRY(set(options, i, value, SOURCE_ENVIRONMENT, name));
    }
    return TD_OK;
}

/* A configuration while it is read. */
struct config {
    struct options *options;
    FILE *file;
    int line;    /* that was read last */
    bool failed; /* the first error is kept, and names its line */
    char error[FAIL_DETAIL_SIZE];
};

static void config_fail(struct config *config, const char *what)
{
    if (!config->failed)
        snprintf(config->error, sizeof config->error, "%s: line %d: %s", config->options->config,
                 config->line, what);
    config->failed = true;
}

/* inih's reader: counts lines, and lets none be cut in two. */
static char *config_read(char *line, int size, void *argument)
{
    struct config *config = argument;
    if (config->failed || !fgets(line, size, config->file))
        return NULL;
    config->line++;
    if (!strchr(line, '\n') && !feof(config->file)) {
        config_fail(config, "the line is too long");
        return NULL;
    }
    return line;
}

static int config_setting(void *argument, const char *section, const char *name, const char *value)
{
    struct config *config = argument;
    char what[160];
    (void)section;
    size_t row = find_row(name, strlen(name));
    if (row == ROWS || rows[row].kind == KIND_SWITCH) {
        snprintf(what, sizeof what, "unknown setting '%.60s'; tensord --help lists them", name);
        config_fail(config, what);
    } else if (set(config->options, row, value, SOURCE_FILE, name) != TD_OK) {
        config_fail(config, fail_detail());
    }
    return !config->failed;
}

static enum td_status parse_config(struct options *options)
{
    struct config config = {.options = options};
    if (!options->config || !*options->config)
        return TD_OK;
    config.file = fopen(options->config, "re");
    if (!config.file)
        return fail(TD_INVALID, "the configuration %s cannot be read: %s", options->config,
                    strerror(errno));
    int line = ini_parse_stream(config_read, &config, config_setting, &config);
    bool unreadable = ferror(config.file) != 0;
    fclose(config.file);
    if (config.failed)
        return fail(TD_INVALID, "%s", config.error);
    if (unreadable)
        return fail(TD_INVALID, "the configuration %s cannot be read; is it a file?",
                    options->config);
    return line == 0 ? TD_OK
                     : fail(TD_INVALID, "%s: line %d is not 'name = value'", options->config, line);
}

/* No quota is unlimited: at most what there is of it in all. */
static void settle_quotas(struct options *options)
{
    const uint64_t all[QUOTA_COUNT] = {
        [QUOTA_BYTES] = options->memory_limit,
        [QUOTA_NAMES] = options->max_names,
        [QUOTA_LEASES] = 4 * options->max_leases,
        [QUOTA_QUEUE_BYTES] = options->memory_limit,
        [QUOTA_DESCRIPTORS] = options->max_descriptors,
        /* So that no user keeps all others out. */
        [QUOTA_CONNECTIONS] = options->max_connections - options->max_connections / 16,
    };
    for (int i = 0; i < QUOTA_COUNT; i++)
        if (!options->quotas[i])
            options->quotas[i] = all[i];
}

enum td_status options_parse(int argc, char **argv, struct options *out)
{
    char buffer[PATH_MAX];
    memset(out, 0, sizeof *out);
    memset(set_by, 0, sizeof set_by);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0)
            return fail(TD_INVALID, "unexpected argument '%s'; tensord --help lists the flags",
                        argv[i]);
        TRY(parse_flag(out, argv, &i));
    }
    TRY(parse_environment(out));
    TRY(parse_config(out));
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].kind != KIND_SWITCH)
            TRY(set(out, i, default_text(&rows[i], buffer, sizeof buffer), SOURCE_DEFAULT,
                    "default"));
    if (strcmp(out->log_format, "plain") != 0 && strcmp(out->log_format, "json") != 0)
        return fail(TD_INVALID, "log-format is plain or json, not '%s'", out->log_format);
    settle_quotas(out);
    return TD_OK;
}

/* Of a machine where nothing is set. */
static enum td_status defaults_of(struct options *out)
{
    char buffer[PATH_MAX];
    memset(out, 0, sizeof *out);
    memset(set_by, 0, sizeof set_by);
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].kind != KIND_SWITCH)
            TRY(set(out, i, default_text(&rows[i], buffer, sizeof buffer), SOURCE_DEFAULT,
                    "default"));
    settle_quotas(out);
    return TD_OK;
}

void options_print_help(void)
{
    char buffer[PATH_MAX];
    struct options defaults;
    if (defaults_of(&defaults) != TD_OK)
        memset(&defaults, 0, sizeof defaults);
    puts(
        "tensord: holds named tensors that processes, containers and machines share.\n\n"
        "usage: tensord [--FLAG VALUE ...]\n\n"
        "Every setting may also stand in the environment (TENSORD_MEMORY_LIMIT) or in the file of\n"
        "--config (memory-limit = 1GiB). Flags go before the environment, the environment before\n"
        "the file, the file before the default. --no-socket, --no-tcp and --no-http open no such\n"
        "listener. Sockets that a service manager hands over, named unix, tcp and http, take the\n"
        "place of --socket, --tcp and --http.\n");
    for (size_t i = 0; i < ROWS; i++) {
        const struct option_row *row = &rows[i];
        printf("  --%-17s %-10s %s", row->name, row->argument ? row->argument : "", row->meaning);
        if (row->kind != KIND_SWITCH) {
            const char *value = default_text(row, buffer, sizeof buffer);
            if (row->kind == KIND_QUOTA) /* 0 stands for a number */
                snprintf(buffer, sizeof buffer, "%llu",
                         *(unsigned long long *)(void *)((char *)&defaults + row->offset));
            printf(" [%s]", row->kind == KIND_QUOTA ? buffer : *value ? value : "none");
        }
        putchar('\n');
    }
    puts("\nLimits that are part of the protocol: names of 512 bytes, rank 32, 1 MiB of meta and\n"
         "one descriptor in a frame, 1000 entries in a list reply, 1 MiB of printed text.");
}
