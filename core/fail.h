/* fail: the detail of the last error of this thread, written once by who decided the error. */
#ifndef CORE_FAIL_H
#define CORE_FAIL_H

#include "core/status.h"

#define FAIL_DETAIL_SIZE 1024

/* Writes the detail of an error, cut at FAIL_DETAIL_SIZE - 1 bytes, and is `status`:
 *     return fail(TD_NOT_FOUND, "no tensor is named '%s'; ...", name);
 * The text says what was wrong, what was expected and what to do. A macro, so that the compiler
 * sees which status it is. */
#define fail(status, ...) (fail_write(__VA_ARGS__), (status))
__attribute__((format(printf, 1, 2), cold)) void fail_write(const char *format, ...);
/* The detail of this thread's last fail(); "" before the first. Valid until its next fail(). */
const char *fail_detail(void);

/* Forwards an error: returns from the calling function unless the expression is TD_OK. */
#define TRY(expression)                                                                            \
    do {                                                                                           \
        enum td_status try_status_ = (expression);                                                 \
        if (try_status_ != TD_OK)                                                                  \
            return try_status_;                                                                    \
    } while (0)

#define NODISCARD __attribute__((warn_unused_result))

#endif
