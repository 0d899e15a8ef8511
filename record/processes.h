/* SPDX-License-Identifier: MIT
 *
 * The processes of a recording: found in the session's table, watched to their end, their streams
 * opened and closed. Called by the collector's loop; drains no ready list itself.
 */
#ifndef HEAPLEDGER_RECORD_PROCESSES_H
#define HEAPLEDGER_RECORD_PROCESSES_H

#include "compact.h"
#include "look.h"
#include "residency.h"
#include "session.h"
#include "stacks_file.h"
#include "stream.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROCESS_NAME_BYTES 64

/* What was taken of a page that is still being filled, and what was seen in it. */
struct taken {
	uint32_t slots;
	uint32_t seen;
	uint64_t sequence; /* of the page when it was seen */
	uint64_t tick;     /* that holds for the next slot */
};

/* One process image. Kept to the end of the recording for session.json. */
struct process {
	uint32_t slot;
	uint32_t serial;
	pid_t pid;
	int pidfd;        /* -1: it was gone when it was found */
	bool alive;       /* not closed yet */
	bool gone;        /* dead, not closed yet */
	bool hidden;      /* in another pid namespace: its pid says nothing here */
	uint64_t caches;  /* hl_process.caches */
	uint8_t replaced; /* 1: another image runs under this pid; 2: and its pages are in */
	struct stream *stream;
	struct hl_trace_header header;
	char *command;
	uint32_t command_bytes;
	uint64_t events;
	uint64_t syscalls; /* of the events */
	uint64_t lost;
	uint64_t bytes;      /* of its file, when it is closed */
	uint64_t heap_bytes; /* of those before its begin mark, after a cut */
	uint64_t begin_tick; /* of its begin mark, 0 = none: what is not later is no event */
	uint64_t end_tick;
	bool damaged;
	bool cut;     /* it has records of after the end of the recording */
	bool early;   /* closed, and all of it was before the recording */
	bool needed;  /* it is not, or another stream needs its heap */
	bool removed; /* nothing is left of it */
	bool complete;
	bool reaped; /* by us, after it was closed */
	/* Pages of the pool that it has touched, and how far: for the samples. */
	uint8_t *touched; /* a page of the pool: 4 KiB units, 0 = never */
	uint64_t touched_bytes;
	struct hl_sample_record sample; /* the one being taken */
	struct look look; /* the last one, where there is no kernel probe */
	struct look_resident resident;
	struct residency_state residency;
	struct process *next; /* alive ones */
};

struct processes {
	struct session *session;
	int dirfd;
	int poll_fd;
	struct stacks_file *stacks;
	struct residency *residency; /* NULL: resident pages are not looked at */
	uint64_t begin_tick; /* of --start-after; UINT64_MAX = not yet, 0 = from the start */
	int not_compacted;          /* -errno: what came before is in the files still */
	uint64_t overwritten; /* events that were cut off by --ring ... */
	uint64_t overwritten_syscalls; /* ... and those of them */
	uint64_t cut_tick;          /* nothing later is taken; 0 = not yet */
	int level;                  /* of compression */
	int error;                  /* the first write error, -errno: nothing is written any more */
	struct taken *taken; /* by page; NULL: nothing was taken ahead */
	struct process **by_serial; /* index = serial */
	uint32_t by_serial_size;
	uint64_t pid_namespace; /* ours */
	uint32_t found;
	struct process *alive;
	uint32_t alive_count;
	uint64_t events; /* of those that were closed, as the next three */
	uint64_t syscalls;
	uint64_t lost;
	uint64_t bytes;
	uint64_t pages;
	uint32_t streams;
	uint32_t lost_pages; /* pages whose process is not known */
};

int processes_open(struct processes *all, struct session *session, int dirfd, int poll_fd);
void processes_free(struct processes *all);

/* Looks for new ones in the table. Cheap when there are none. */
void processes_discover(struct processes *all);
struct process *processes_by_serial(const struct processes *all, uint32_t serial);

/* The image of this pid that runs now; NULL if there is none. */
struct process *processes_by_pid(const struct processes *all, pid_t pid);

/* A child of ours has ended that is not alive here. Whether it was: its parent left it unwaited for,
 * and so it became ours when it was closed already. */
bool processes_reaped(struct processes *all, pid_t pid);

/* Around a drain of the ready list: images that an exec has replaced are closed when everything
 * they gave has been taken. */
void processes_before_drain(struct processes *all);
void processes_after_drain(struct processes *all);

/* Appends records of the recorder itself (tid 0). */
void processes_put(
	struct processes *all, struct process *process, const void *record, unsigned slots);
void processes_put_clock(struct processes *all, struct process *process);

/* The last of a process whose ready pages have been taken: what it still owned, and its end. */
void processes_close(
	struct processes *all, struct process *process, enum hl_trace_end end, int32_t end_status);

/* The recording begins now, when all.begin_tick was UINT64_MAX until now. */
void processes_begin(struct processes *all);

/* When all are closed: leaves of what came before the begin only the heap as it was then. */
void processes_compact(struct processes *all);

/* Removes the streams of which nothing is left: they are `early`, and so are all that were forked
 * from them. */
void processes_remove_early(struct processes *all);

/* The children that were forked from this process: `list` has room for by_serial_size of them. */
size_t processes_children(const struct processes *all, const struct process *process,
	struct compact_child *list);

/* Gives a new process its command, of so many bytes and a NUL of its own. 0 or -ENOMEM. */
int processes_set_command(struct process *process, const char *command, size_t bytes);

/* A process that is followed from outside and has no place in the session's table: its pid, serial
 * and command are given, and the command is ours from now on; of its header what is not the
 * session's. 0 or -errno. */
int processes_add(struct processes *all, const struct process *given);

/* Its end, which the caller has seen. `lost` is in the process. */
struct processes_end {
	enum hl_trace_end end;
	int32_t status;
	uint64_t tick;
	bool whole; /* nothing of it is missing */
};
void processes_finish(
	struct processes *all, struct process *process, const struct processes_end *how);

const char *processes_file_name(const struct process *process, char name[PROCESS_NAME_BYTES]);

/* Some of its events are in its file no more. */
void processes_overwrite(struct processes *all, struct process *process, uint64_t events,
	uint64_t syscalls);

/* Whether one is alive whose end we can see. */
bool processes_visible(const struct processes *all);

/* The first error stays. */
void processes_note_error(struct processes *all, int rc);

#endif
