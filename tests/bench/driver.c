#include "driver.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SAMPLES_MAX 200000
#define SETTLE_NS 100000

static struct {
    const char *metric;
    int64_t nanoseconds;
    enum side side;
} samples[SAMPLES_MAX];
static size_t sample_count;

void sample(const char *metric, enum side side, int64_t nanoseconds)
{
    if (sample_count == SAMPLES_MAX)
        die("more than %d samples", SAMPLES_MAX);
    samples[sample_count].metric = metric;
    samples[sample_count].side = side;
    samples[sample_count++].nanoseconds = nanoseconds;
}

static void print_samples(void)
{
    for (size_t i = 0; i < sample_count; i++)
        printf("%s %s %lld\n", samples[i].metric, samples[i].side == TENSORD ? "tensord" : "limit",
               (long long)samples[i].nanoseconds);
}

void expect(enum td_status status, const char *what)
{
    errno = 0;
    if (status != TD_OK)
        die("%s: %s: %s", what, td_status_name((int)status), td_last_error());
}

void let_settle(void)
{
    for (int64_t until = now_ns() + SETTLE_NS; now_ns() < until;)
        ;
}

struct td_client *tensord_connect(const struct plan *plan)
{
    struct td_client *client;
    expect(td_connect(plan->url, NULL, &client), "connecting to tensord");
    return client;
}

int peer_connect(const struct plan *plan)
{
    return plan->peer_socket ? connect_unix(plan->peer_socket) : connect_tcp(plan->peer_port);
}

/* ---- keeping awake ------------------------------------------------------------------------- */

static pid_t spinners[CPU_SETSIZE];

static void awake_stop(void)
{
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (spinners[i] > 0)
            kill(spinners[i], SIGKILL);
}

static _Noreturn void spin_on(size_t cpu)
{
    static const struct sched_param none;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sched_setscheduler(0, SCHED_IDLE, &none) != 0 ||
        sched_setaffinity(0, sizeof set, &set) != 0)
        _exit(1);
    for (volatile int on = 1; on;)
        ;
    _exit(0);
}

void awake_start(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        die("which CPUs there are");
    atexit(awake_stop);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        spinners[cpu] = fork();
        if (spinners[cpu] < 0)
            die("fork");
        if (spinners[cpu] == 0)
            spin_on(cpu);
    }
}

static void stay_on(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        die("moving to CPU %d", cpu);
}

/* ---- main ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*measure)(const struct plan *plan);
} measurements[] = {
    {"map", measure_map}, {"touch", measure_touch}, {"put", measure_put},
    {"get", measure_get}, {"trip", measure_trip},
};

static struct plan parse(int argc, char **argv)
{
    struct plan plan = {.repetitions = 10, .size = (size_t)8 << 20, .cpu = -1};
    for (int option; (option = getopt(argc, argv, "u:p:t:s:n:c:a")) != -1;) {
        switch (option) {
        case 'u':
            plan.url = optarg;
            break;
        case 'p':
            plan.peer_socket = optarg;
            break;
        case 't':
            plan.peer_port = atoi(optarg);
            break;
        case 's':
            plan.size = (size_t)atoi(optarg) << 20;
            break;
        case 'n':
            plan.repetitions = atoi(optarg);
            break;
        case 'c':
            plan.cpu = atoi(optarg);
            break;
        case 'a':
            plan.awake = true;
            break;
        default:
            exit(2);
        }
    }
    return plan;
}

int main(int argc, char **argv)
{
    struct plan plan = parse(argc, argv);
    if (optind >= argc)
        die("usage: driver -u URL -p SOCKET | -t PORT [-s MIB] [-n REPETITIONS] [-c CPU] [-a] "
            "map | touch | put | get | trip");
    if (plan.awake)
        awake_start(); /* before there are sockets to inherit */
    if (plan.cpu >= 0)
        stay_on(plan.cpu);
    for (size_t i = 0; i < sizeof measurements / sizeof measurements[0]; i++)
        if (strcmp(measurements[i].name, argv[optind]) == 0) {
            measurements[i].measure(&plan);
            print_samples();
            return 0;
        }
    die("there is no measurement %s", argv[optind]);
}
