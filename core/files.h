/* files: files local to the daemon, below directories that its owner allows.
 *
 * A path is relative to the first of these directories that has it, or absolute and below one of
 * them. It never leads out of that: no "..", no link to elsewhere, no /proc magic; only regular
 * files are opened, and never waited for (a FIFO is refused, not read).
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_FILES_H
#define CORE_FILES_H

#include "core/cleanup.h"
#include "core/fields.h"

#include <sys/stat.h>

struct file_roots;

/* The directories, separated by ':'; "" or NULL for none. option: "load-dir", for messages.
 * INVALID for one that is no directory. */
NODISCARD enum td_status file_roots_open(const char *list, const char *option,
                                         struct file_roots **out);
void file_roots_close(struct file_roots *roots);

/* Opens a regular file for reading. FORBIDDEN outside of the directories (or if there are none),
 * and for what is no regular file; NOT_FOUND. *info is as of fstat. */
NODISCARD enum td_status file_open(const struct file_roots *roots, struct text path, int *fd,
                                   struct stat *info);
/* Reads all of it. CONFLICT if it is not, or no longer, as *info says. */
NODISCARD enum td_status file_read(int fd, const struct stat *info, unsigned char *to);

/* A file that takes the place of what is at its path when it is complete. Its permissions and its
 * group are those of what was there (with another group, no more than that), else 0666 but for the
 * umask. */
struct new_file;

/* FORBIDDEN and NOT_FOUND as of file_open; OUT_OF_MEMORY where the disk is full. */
NODISCARD enum td_status file_create(const struct file_roots *roots, struct text path,
                                     struct new_file **out);
NODISCARD enum td_status file_write(struct new_file *file, const void *bytes, size_t size);
/* All of it is on the disk. */
NODISCARD enum td_status file_sync(struct new_file *file);
/* Gives it its name. After file_sync; not long. */
NODISCARD enum td_status file_publish(struct new_file *file);
/* Removes what was not published. */
void file_destroy(struct new_file *file);
CLEANUP_DEFINE(struct new_file *, file_destroy)

#endif
