/* signals: ^C and its like leave nothing half done. */
#include "client/cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static volatile sig_atomic_t gentle;
static volatile sig_atomic_t guarded;
static volatile sig_atomic_t line_drawn;
static const char wipe[] = "\r\033[K";
static char guarded_path[PATH_MAX]; /* changed only while `guarded` is 0 */

static const char *mapped; /* changed only where nothing reads it */
static size_t mapped_length;

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

static __attribute__((noreturn)) void leave(int code, const char *last_words)
{
    ssize_t ignored = 0;
    if (guarded)
        unlink(guarded_path);
    if (line_drawn)
        ignored = write(STDERR_FILENO, wipe, sizeof wipe - 1);
    ignored = write(STDERR_FILENO, last_words, strlen(last_words));
    (void)ignored;
    _exit(code);
}

static void on_signal(int number)
{
    if (gentle && !caught)
        caught = number;
    else
        leave(128 + number, "");
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr, begin = (uintptr_t)mapped;
    (void)context;
    if (at >= begin && at - begin < mapped_length)
        leave(EXIT_REFUSED, "tensorctl: the file became shorter while it was read; put it again "
                            "when it is complete\n");
    signal(number, SIG_DFL); /* not by the file: the fault comes again, and ends the process */
}

void signals_setup(void)
{
    /* No SA_RESTART: what waits is to notice. */
    struct sigaction action = {.sa_handler = on_signal};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++) {
        /* nohup, and shells that start jobs in the background, have them ignored. */
        if (sigaction(ending[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN)
            continue;
        sigaction(ending[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN); /* a write then says EPIPE, see cli_finish */
}

void signals_guard_map(const void *bytes, size_t length)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    mapped = bytes;
    mapped_length = length;
    sigaction(SIGBUS, &action, NULL);
}

void signals_gentle(void)
{
    gentle = 1;
}

int signals_caught(void)
{
    return caught;
}

void signals_line(bool drawn)
{
    line_drawn = drawn;
}

void signals_hold(bool hold)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++)
        sigaddset(&set, ending[i]);
    sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

void signals_guard_file(const char *path)
{
    guarded = 0;
    if (!path || strlen(path) >= sizeof guarded_path)
        return;
    strcpy(guarded_path, path);
    guarded = 1;
}

void signals_sleep(uint64_t milliseconds)
{
    struct timespec left = {.tv_sec = (time_t)(milliseconds / 1000),
                            .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    while (!caught && nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}
