#include "server/log.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEXT_BYTES 2048

static bool as_json;

void log_setup(bool json)
{
    as_json = json;
}

/* The text as a JSON string's inside: at most six bytes for each. */
static void escape(const char *text, char *out)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            out += sprintf(out, "\\%c", c);
        else if (c < 0x20)
            out += sprintf(out, "\\u%04x", c);
        else
            *out++ = (char)c;
    }
    *out = '\0';
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char *const levels[] = {"error", "warning", "info"};
    char text[TEXT_BYTES], escaped[6 * TEXT_BYTES + 1], line[sizeof escaped + 128], when[40];
    struct timespec now;
    struct tm utc;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
    escape(text, escaped);
    int length = as_json
                     ? snprintf(line, sizeof line,
                                "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"message\":\"%s\"}\n",
                                when, now.tv_nsec / 1000000, levels[level], escaped)
                     : snprintf(line, sizeof line, "%s.%03ldZ tensord %s: %s\n", when,
                                now.tv_nsec / 1000000, levels[level], text);
    /* One write, so that lines of several threads do not mix. Nothing can be done if it fails. */
    if (write(STDERR_FILENO, line, (size_t)length) < 0)
        return;
}
