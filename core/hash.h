/* hash: uthash, told to leave an element out of the table (hh.tbl stays NULL) without memory rather
 * than to end the process. */
#ifndef CORE_HASH_H
#define CORE_HASH_H

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#endif
