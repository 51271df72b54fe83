#include "client/cli/sizes.h"

#include <stdio.h>

const char *size_text(uint64_t bytes, char out[SIZE_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    double value = (double)bytes;
    /* 1023.95 would be written as 1024.0 of the smaller unit. */
    while (value >= (unit == 0 ? 1024 : 1023.95) && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(out, SIZE_TEXT_MAX, "%llu B", (unsigned long long)bytes);
    else
        snprintf(out, SIZE_TEXT_MAX, value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}
