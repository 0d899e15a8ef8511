/* SPDX-License-Identifier: MIT
 *
 * Phases named from outside: the socket in the trace directory to which `heapledger mark` sends a
 * name, and the answer. Both ends are here; the collector receives, cmd_mark.c sends.
 */
#ifndef HEAPLEDGER_RECORD_MARK_H
#define HEAPLEDGER_RECORD_MARK_H

#include "heapledger/record.h"

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MARK_SOCKET "mark.socket"

/* A name that was sent, and by whom. */
struct mark_request {
	char name[HL_PHASE_NAME_BYTES];
	struct sockaddr_un from;
	socklen_t from_bytes;
};

/* The socket in this directory, not blocking: a descriptor or -errno. */
int mark_open(int dirfd);
void mark_close(int fd, int dirfd);

/* The next name: 1, or 0 when there is none. */
int mark_receive(int fd, struct mark_request *request);

/* Tells the sender in how many processes the phase has begun. */
void mark_answer(int fd, const struct mark_request *request, uint32_t processes);

/* Sends a name of 1 to 79 bytes and waits for the answer: the number of processes, or -errno;
 * -ECONNREFUSED when no recording into this directory runs, -ETIMEDOUT when it does not answer. */
int mark_send(int dirfd, const char *name);

#endif
