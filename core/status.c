#include "core/fail.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *name;
    int http;
    const char *meaning;
} statuses[TD_STATUS_COUNT] = {
#define STATUS_ROW(name, number, http, meaning) [number] = {#name, http, meaning},
    TD_STATUSES(STATUS_ROW)
#undef STATUS_ROW
};

/* The names in lower case, filled by the preprocessor's upper-case ones on first use would need a
 * lock; a constructor runs before any thread. */
static char lower_names[TD_STATUS_COUNT][24];

__attribute__((constructor)) static void lower_names_fill(void)
{
    for (int i = 0; i < TD_STATUS_COUNT; i++)
        for (size_t k = 0; statuses[i].name[k]; k++)
            lower_names[i][k] = (char)(statuses[i].name[k] == '_' ? '_' : statuses[i].name[k] | 32);
}

static int status_known(int status)
{
    return status >= 0 && status < TD_STATUS_COUNT;
}

const char *td_status_name(int status)
{
    return status_known(status) ? lower_names[status] : "unknown";
}

const char *td_status_meaning(int status)
{
    return status_known(status) ? statuses[status].meaning : "an error of a newer protocol";
}

int td_status_http(int status)
{
    return status_known(status) ? statuses[status].http : 500;
}

static _Thread_local char detail[FAIL_DETAIL_SIZE];

/* Ends a text that was cut after its last whole UTF-8 character, not in the middle of one. */
static void cut_at_character(char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (length - start + 1 < wanted)
        text[start - 1] = '\0';
}

void fail_write(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof detail)
        cut_at_character(detail, sizeof detail - 1);
}

const char *fail_detail(void)
{
    return detail;
}
