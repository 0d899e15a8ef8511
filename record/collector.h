/* SPDX-License-Identifier: MIT
 *
 * The loop of `heapledger record`: drains the session's pages into streams, follows processes,
 * samples them, forwards signals. One thread. Called by cmd_record.c; prints nothing but what goes
 * wrong while the program runs, and the live line.
 */
#ifndef HEAPLEDGER_RECORD_COLLECTOR_H
#define HEAPLEDGER_RECORD_COLLECTOR_H

#include "caches.h"
#include "live.h"
#include "processes.h"
#include "session.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum kernel_mode { KERNEL_AUTO, KERNEL_REQUIRE, KERNEL_OFF };
struct probe;

struct collector {
	/* Given by the command. */
	struct session session;
	const char *directory;
	int dirfd;
	int signal_fd;
	pid_t child;
	uint64_t interval_ns;
	uint64_t residency_ns;   /* between looks at resident pages; 0 = none */
	uint64_t start_after_ns; /* what comes before is not recorded */
	uint64_t duration_ns;    /* of the recording; 0 = to the program's end */
	uint64_t ring_bytes;     /* of records, the newest ones, are kept; 0 = all */
	int mark_signal;         /* begins a phase instead of being passed on; 0 = none */

	struct live live;
	struct processes processes;
	int poll_fd;
	int mark_fd; /* -1: the directory cannot hold the socket */
	uint32_t signal_marks;
	struct caches_held caches; /* of a process, when a phase begins in it */
	struct ring *ring; /* NULL: everything is kept */
	struct probe *probe;
	bool child_ended;
	int child_status; /* as waitpid gives it */
	bool detached;
	bool stopped;    /* duration_ns are over: the program runs on unrecorded */
	bool failed;     /* a write error was reported */
	bool quit;       /* SIGINT or SIGTERM after the program ended */
	uint32_t unseen; /* children that ended without having been recorded */
	uint64_t started_ns;
	uint64_t ended_ns;
	uint64_t next_sample_ns;
	uint64_t next_clock_ns;
	uint64_t next_look_ns;
	uint64_t next_resident_ns;
	uint32_t *batch; /* page numbers */
};

int collector_open(struct collector *collector);

/* All samples have been taken, from `began_ns` on: when the next are due. They take at most a tenth of
 * our time. */
void collector_sampled(struct collector *collector, uint64_t began_ns);

/* Begins to listen to `heapledger mark`. After session.json is written, which needs its place on a
 * full disk more. */
void collector_open_marks(struct collector *collector);

/* Until the program and all its recorded descendants have ended, or the recording is `stopped`;
 * then collector_wait, until they have. */
void collector_run(struct collector *collector);
void collector_wait(struct collector *collector);
void collector_close(struct collector *collector);

#endif
