/* SPDX-License-Identifier: MIT
 *
 * Starting the program: finding it, seeing beforehand that the library can be loaded into it, and
 * running it with everything as it would be without us. Called by cmd_record.c.
 */
#ifndef HEAPLEDGER_RECORD_LAUNCH_H
#define HEAPLEDGER_RECORD_LAUNCH_H

#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

#define LAUNCH_SIGNALS 3

struct launch {
	char path[PATH_MAX]; /* of the program */
	sigset_t mask;       /* as it was when we were started, like the rest */
	struct sigaction actions[LAUNCH_SIGNALS];
	struct rlimit files;
	int go_fd;    /* the child waits for a byte */
	int error_fd; /* and says here why it could not exec */
	pid_t pid;
};

/* Resolves `program` as execvp does and looks at the file. 0, or TOOL_NOT_FOUND or TOOL_CANNOT_RUN
 * and a line that says what to do. */
int launch_find(struct launch *launch, const char *program, char *why, size_t why_bytes);

/* Where the library of this name is; -errno if nowhere. */
#define LAUNCH_ALLOCATOR "libheapledger.so"
#define LAUNCH_OBSERVER "libheapledger-observe.so"
int launch_library(const char *name, char *path, size_t bytes);

/* Takes over the signals for ourselves (returns a signalfd or -errno) and raises our own limits. */
int launch_take_signals(struct launch *launch);

/* Forks the child, which waits; launch_go lets it run and returns 0 or -errno of its execve. */
int launch_fork(struct launch *launch, char **argv, const char *session, const char *library);
int launch_go(struct launch *launch);

/* Lets go of a child that shall not run. */
void launch_cancel(struct launch *launch);

#endif
