#include "client/cli/progress.h"
#include "client/cli/cli.h"
#include "client/cli/sizes.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FIRST_MS 200 /* shorter transfers draw nothing */
#define EVERY_MS 100
#define WIDTH_MAX 400

static struct {
    bool allowed, running, drawn, bodies;
    const char *label;
    uint64_t total, done;
    uint64_t body_done; /* of the body under way */
    uint64_t begun_ms, drawn_ms;
} state;

uint64_t progress_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
}

/* "45%  123 MiB of 1.0 GiB  512 MiB/s  3 s left", or without a total what there is of it. */
static void numbers_text(uint64_t elapsed_ms, char *out, size_t size)
{
    char done[SIZE_TEXT_MAX], total[SIZE_TEXT_MAX], rate[SIZE_TEXT_MAX];
    uint64_t a_second = (uint64_t)((double)state.done * 1000 / (double)elapsed_ms);
    size_text(state.done, done);
    size_text(state.total, total);
    size_text(a_second, rate);
    if (!state.total) {
        snprintf(out, size, "%s  %s/s", done, rate);
        return;
    }
    double left = a_second ? (double)(state.total - state.done) / (double)a_second : 0;
    int percent = (int)((double)state.done * 100 / (double)state.total);
    snprintf(out, size, "%3d%%  %s of %s  %s/s  %.0f s left", percent, done, total, rate, left);
}

static void draw(uint64_t now)
{
    char numbers[128], line[WIDTH_MAX + 1];
    uint64_t elapsed = now - state.begun_ms;
    numbers_text(elapsed ? elapsed : 1, numbers, sizeof numbers);
    int width = terminal_width();
    int bar = state.total ? width - (int)strlen(state.label) - (int)strlen(numbers) - 8 : 0;
    if (bar > 40)
        bar = 40;
    if (bar >= 8) {
        char fill[41];
        int full = (int)((double)bar * (double)state.done / (double)state.total);
        memset(fill, '=', sizeof fill);
        if (full < bar)
            fill[full] = '>';
        snprintf(line, sizeof line, "%s [%.*s%*s]  %s", state.label, full < bar ? full + 1 : bar,
                 fill, full < bar ? bar - full - 1 : 0, "", numbers);
    } else {
        snprintf(line, sizeof line, "%s  %s", state.label, numbers);
    }
    signals_line(true); /* before: a signal may come right behind it */
    fprintf(stderr, "\r%.*s\033[K", width - 1, line);
    fflush(stderr);
    state.drawn = true;
    state.drawn_ms = now;
}

void progress_allow(bool allowed)
{
    state.allowed = allowed && isatty(STDERR_FILENO);
}

void progress_begin(const char *label, uint64_t total_bytes)
{
    state.running = state.allowed;
    state.drawn = state.bodies = false;
    state.label = label;
    state.total = total_bytes;
    state.done = state.body_done = 0;
    state.begun_ms = progress_now_ms();
    state.drawn_ms = 0;
}

void progress_add(uint64_t bytes)
{
    if (!state.running)
        return;
    state.done += bytes;
    if (state.total && state.done > state.total)
        state.done = state.total;
    uint64_t now = progress_now_ms();
    if (now - state.begun_ms >= FIRST_MS && now - state.drawn_ms >= EVERY_MS)
        draw(now);
}

void progress_end(void)
{
    if (state.drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    state.running = state.drawn = false;
    signals_line(false);
}

void progress_bodies(void)
{
    state.bodies = true;
}

void progress_of_body(void *nothing, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)nothing;
    if (!state.running || !state.bodies)
        return;
    if (!state.total)
        state.total = total_bytes;
    if (done_bytes < state.body_done) /* the same body once more */
        state.body_done = 0;
    progress_add(done_bytes - state.body_done);
    state.body_done = done_bytes < total_bytes ? done_bytes : 0;
}
