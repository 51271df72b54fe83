/* sizes: numbers of bytes for people. */
#ifndef CLI_SIZES_H
#define CLI_SIZES_H

#include <stdint.h>

#define SIZE_TEXT_MAX 32

/* "24 B", "1.5 KiB", "320 MiB". Returns `out`. */
const char *size_text(uint64_t bytes, char out[SIZE_TEXT_MAX]);

#endif
