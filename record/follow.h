/* SPDX-License-Identifier: MIT
 *
 * The loop of `heapledger attach`: follows a process that runs, and what it forks and executes, by
 * the kernel probe's events and by /proc; writes a stream for each of them, samples them, and with
 * probes on the allocator takes its calls. Called by cmd_attach.c. Nothing is changed in the
 * process: it is not stopped, signalled or traced.
 *
 * What there is shares its form with the collector's (collector.h), of which this one uses the
 * parts that know nothing of shared memory.
 */
#ifndef HEAPLEDGER_RECORD_FOLLOW_H
#define HEAPLEDGER_RECORD_FOLLOW_H

#include "collector.h"
#include "kernel.h"
#include "target.h"

#include "bpf/allocator.h"

#include <stdbool.h>
#include <stdint.h>

struct follow {
	/* Given by the command: directory, dirfd, signal_fd, child (the process), interval_ns and
	 * duration_ns in it. */
	struct collector collector;
	struct kernel kernel;
	const struct target_allocator *target; /* NULL: calls are not recorded */

	struct hl_session map; /* no shared memory: the clock only */
	struct process *root;  /* the image that was attached to */
	struct allocator *allocator;
	struct allocator_account account;
	uint64_t next_fork_id;
	bool mapped_known; /* maps could be read */
	bool root_ended;
	bool blind;      /* the main thread has ended, and the allocator's probes with it */
	uint64_t cut_ns; /* what comes later is left out; 0 = the recording goes on */
	bool quit;
	uint64_t faults_before; /* of the process, when it was attached to */
	uint64_t faults;        /* since, as sampled */
	uint64_t first_rss;
	uint64_t last_rss;
};

/* Opens the streams and the probes. 0, or an exit code with a line in `why`: the allocator's probes
 * are wanted and cannot be set, or nothing can be written. Whether there is a kernel's side is in
 * `kernel`. */
int follow_open(struct follow *follow, char *why, size_t why_bytes);

/* Until the process ends, the duration is over or a signal comes; then all is closed and whole. */
void follow_run(struct follow *follow);
void follow_close(struct follow *follow);

#endif
