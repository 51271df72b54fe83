/* progress: how far a long transfer is, on standard error, where that is a terminal.
 *
 *     progress_begin("x.npy", total or 0)     of bytes; 0: nobody knows
 *     progress_add(n) ...                     n more are done
 *     progress_end()                          wipes the line
 *
 * Nothing shows within the first moments, so that short transfers draw nothing. One transfer at a
 * time; without progress_begin the other two do nothing.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether anything is drawn at all: not with --quiet, and not into files. */
void progress_allow(bool allowed);
void progress_begin(const char *label, uint64_t total_bytes);
void progress_add(uint64_t bytes);
void progress_end(void);

/* Milliseconds of a clock that only goes forward. */
uint64_t progress_now_ms(void);

/* From here to progress_end bodies on their way to or from the daemon count; the first of them
 * tells the total if nobody knew it. */
void progress_bodies(void);
/* For td_options.progress. */
void progress_of_body(void *nothing, uint64_t done_bytes, uint64_t total_bytes);

#endif
