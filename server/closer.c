#include "server/closer.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#define QUEUE_MAX 256 /* more than a client that plays no tricks ever sends */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int queue[QUEUE_MAX];
static int count;
static bool running;

static void *closer_thread(void *argument)
{
    (void)argument;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (count == 0)
            pthread_cond_wait(&wake, &lock);
        int fd = queue[--count];
        pthread_mutex_unlock(&lock);
        close(fd);
    }
    return NULL;
}

/* The thread starts with the first descriptor: most daemons never need it. */
static bool closer_start(void)
{
    pthread_t thread;
    if (!running && pthread_create(&thread, NULL, closer_thread, NULL) == 0) {
        pthread_detach(thread);
        running = true;
    }
    return running;
}

int closer_replace(int fd)
{
    pthread_mutex_lock(&lock);
    /* Full: a close has been waiting for long. The descriptor stays open, which costs the sender's
     * connection and nobody's time. */
    bool taken = closer_start() && count < QUEUE_MAX;
    if (taken) {
        queue[count++] = fd;
        pthread_cond_signal(&wake);
    }
    pthread_mutex_unlock(&lock);
    return taken ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
}
