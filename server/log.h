/* log: lines on standard error, for people or as JSON. Threads: any. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO };

/* Before other threads start. */
void log_setup(bool json);
/* One line; the text is cut at 2 KiB. */
__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

#endif
