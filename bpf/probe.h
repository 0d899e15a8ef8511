/* SPDX-License-Identifier: MIT
 *
 * The kernel probe: records the memory system calls of a process tree as the kernel sees them, and
 * what becomes of its processes, in a stream of their own (source HL_TRACE_KERNEL). Called by the
 * collector; never by the target. Built without libbpf it still links, and probe_open says why
 * there is none.
 */
#ifndef HEAPLEDGER_PROBE_H
#define HEAPLEDGER_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct hl_syscall_record;
struct probe;

/* Who is told of each event besides the stream, as it is taken: for a process that is followed from
 * outside, and so is known by these alone. */
struct probe_sink {
	void (*event)(void *context, uint32_t tid, const struct hl_syscall_record *record);
	void *context;
	bool with_allocator; /* allocator.h will be used: calls tell in which call they were made */
	bool with_faults;    /* each page fault is an event, with its address */
};

/* What the kernel's side counted of one kind of event on one CPU, whether or not there was room for
 * it: ended = events + dropped. */
struct probe_total {
	uint64_t ended;
	uint64_t dropped;
};

#define PROBE_FIRST_KIND 32 /* of enum hl_kind: the first of each CPU's totals */
#define PROBE_KINDS 64

/* A program image that began. */
struct probe_image {
	uint64_t ns; /* CLOCK_MONOTONIC, of the exec */
	pid_t pid;
	char name[16]; /* as ps shows it, not escaped */
};

struct probe_account {
	uint64_t events; /* in the stream */
	uint64_t lost;   /* calls that were made but are not in the stream */
	unsigned cpus;
	struct probe_total (*total)[PROBE_KINDS]; /* for each CPU; the caller frees it */
	struct probe_image *images;               /* in no order; the caller frees them */
	size_t image_count;
};

/* Loads and attaches the probe for `root`, a process that is stopped before its exec, and all that
 * it will start; creates <root>.0.kernel.hlt in dirfd. 0, or -errno with one line in `why`, and
 * then the recording goes on without the kernel's side. */
int probe_open(struct probe **out, int dirfd, pid_t root, char *why, size_t why_bytes);

/* Whether the kernel asks for CAP_BPF at every call about the probe, as before Linux 5.19 where
 * kernel.unprivileged_bpf_disabled is set. Tried with what is in effect now. */
bool probe_asks_privilege(const struct probe *probe);

/* The same for a process that runs, with all its threads: calls that it is in now are not counted.
 */
int probe_follow(struct probe **out, int dirfd, pid_t root, const struct probe_sink *sink,
	char *why, size_t why_bytes);

/* How it is attached: "tracepoints of the calls", "raw tracepoints", or, where the kernel has no
 * type information, "classic tracepoints". */
const char *probe_way(const struct probe *probe);

/* For allocator.c: the map of calls under way. */
int probe_allocating(const struct probe *probe);

/* Takes what has gathered, without waiting. Call it every 50 ms or more often: the ring holds
 * about 140,000 calls, and what does not fit is counted as lost. 0, or -errno if the stream
 * cannot be written. */
int probe_poll(struct probe *probe);

/* Detaches, takes the rest, completes the stream and frees the probe. The account is filled in also
 * when it fails, as far as it goes. */
int probe_close(struct probe *probe, struct probe_account *account);

/* Loads and attaches the probe as probe_open would, has it see a system call of our own, then lets
 * go. For `heapledger doctor`; `why` gets the reason of a failure, or how the probe is attached. */
int probe_try(char *why, size_t why_bytes);

#endif
