/* closer: closes descriptors that clients sent and that are no memory.
 *
 * Closing a foreign socket or file may wait for as long as its owner likes (SO_LINGER, a FUSE
 * flush), so it is left to a thread of its own, which holds up nobody else. Threads: any.
 */
#ifndef SERVER_CLOSER_H
#define SERVER_CLOSER_H

/* Gives the descriptor to the closing thread, and returns a harmless one in its place, which is no
 * memory either; -1 if there is none, and the caller should give the client up. */
int closer_replace(int fd);

#endif
