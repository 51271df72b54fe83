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

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

static void on_signal(int number)
{
    if (gentle && !caught) {
        caught = number;
        return;
    }
    if (guarded)
        unlink(guarded_path);
    ssize_t ignored = line_drawn ? write(STDERR_FILENO, wipe, sizeof wipe - 1) : 0;
    (void)ignored;
    _exit(128 + number);
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
