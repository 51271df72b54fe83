/* What the measuring clients share: samples, and what keeps them comparable. */
#include "bench.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SAMPLES_MAX 200000
#define SETTLE_NS 100000

static struct {
    const char *metric, *side;
    int64_t nanoseconds;
} samples[SAMPLES_MAX];
static size_t sample_count;

void sample(const char *metric, const char *side, int64_t nanoseconds)
{
    if (sample_count == SAMPLES_MAX)
        die("more than %d samples", SAMPLES_MAX);
    samples[sample_count].metric = metric;
    samples[sample_count].side = side;
    samples[sample_count++].nanoseconds = nanoseconds;
}

void print_samples(void)
{
    for (size_t i = 0; i < sample_count; i++)
        printf("%s %s %lld\n", samples[i].metric, samples[i].side,
               (long long)samples[i].nanoseconds);
}

void let_settle(void)
{
    for (int64_t until = now_ns() + SETTLE_NS; now_ns() < until;)
        ;
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

void stay_on(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        die("moving to CPU %d", cpu);
}
