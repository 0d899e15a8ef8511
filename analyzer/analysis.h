/* SPDX-License-Identifier: MIT
 *
 * A trace analysed: one result a stream, and their sums. Made by analysis_run in one pass over
 * every stream; read by json.c, csv.c and summary.c.
 */
#ifndef HEAPLEDGER_ANALYSIS_H
#define HEAPLEDGER_ANALYSIS_H

#include "faults.h"
#include "findings.h"
#include "instants.h"
#include "ledger.h"
#include "map.h"
#include "moments.h"
#include "observed.h"
#include "snapshots.h"
#include "trace.h"
#include "window.h"

/* Whose rules the allocator follows, when session.json does not say. */
#define ANALYSIS_MODEL "glibc 2.36"

/* Where a block was allocated, in the code of the program. Strings live as long as what describes
 * it; NULL = not known. */
struct analysis_site {
	uint64_t address; /* 0 = not known */
	const char *function;
	const char *file;
	unsigned line; /* 0 = not known */
	const char *module;
	uint64_t offset; /* in its file */
};

static inline bool site_is_nameless(const struct analysis_site *site)
{
	return site->module && site->address && !site->function;
}

/* `caller` as a record has it, of a process at a time. */
typedef void analysis_describe(void *context, const struct trace_stream *stream, uint64_t tick,
	uint64_t caller, struct analysis_site *site);

/* Calls `each` for the functions of the caller's stack, inlined ones too, the innermost first. */
typedef void analysis_each_frame(void *to, const char *function, const char *module);
typedef void analysis_frames(void *context, const struct trace_stream *stream, uint64_t tick,
	uint64_t caller, analysis_each_frame *each, void *to);

/* What holds memory is summed up by these; 0: not at all. */
enum analysis_group {
	ANALYSIS_UNGROUPED,
	ANALYSIS_BY_SITE, /* a place in the code */
	ANALYSIS_BY_SIZE, /* a class of sizes */
	ANALYSIS_BY_THREAD,
	ANALYSIS_BY_MODULE,
	ANALYSIS_GROUPS
};

struct group {
	struct layout_site sum;
	struct analysis_site place; /* by site and by module: what all of it has in common */
};

/* Those of a moment, by pinned bytes. */
struct groups {
	enum analysis_group by;
	struct group *list;
	size_t count;
	size_t shown; /* of them, by --top */
};

/* The size class of a group by size. */
static inline uint64_t group_up_to(const struct group *group)
{
	return tally_size_limit((unsigned)(group->sum.caller - 1));
}

struct analysis_stream {
	struct trace_stream *stream;
	struct ledger_result result;
	struct timeline timeline;
	struct instants instants; /* none of an observed allocator */
	struct snapshots snapshots; /* none of an observed allocator */
	struct moments moments; /* none of an observed allocator */
	struct groups *groups;  /* one a moment, by groups_make */
	struct threads threads; /* that allocated */
	bool done;
};

struct analysis {
	struct trace *trace;
	struct observed
		*observed; /* NULL: no system calls of the kernel's side are wanted or there */
	struct faults *faults; /* NULL: they were not recorded, or not all are there */
	struct analysis_stream *streams; /* as trace->streams */
	size_t count;
	size_t main;          /* the stream with the highest peak of mapped bytes, or of requested
				 ones where those are not known */
	uint64_t trace_bytes; /* of the streams' files */
	uint64_t first_ns;
	uint64_t last_ns;
	bool complete;
	char faults_why[128];  /* why resident memory is not known from faults; "" = not asked for */
	char unknown_why[256]; /* why the system calls of an observed process are not known */
	unsigned wants; /* enum analysis_wants */
	struct window window; /* streams that have nothing in it are left out */
	struct progress *progress; /* told of each record; NULL = nobody wants to know */
	uint32_t top;   /* rows of a table or list that were asked for; 0 = as many as is usual */
	enum analysis_group group_by;
	bool peaks;     /* they are laid out: with ANALYSIS_PEAKS, if all processes' heaps are known */
	analysis_describe *describe; /* NULL = nobody can */
	analysis_frames *frames;     /* NULL = they are not wanted */
	void *describe_context;      /* of both */
	struct findings findings; /* by findings_make */
	/* With ANALYSIS_MAP: of the process with the largest heap, if its inside is known. */
	struct map map;
	size_t map_stream;
	bool map_known;
	/* Sums over all streams: counts, events, returned, latency, anomalies, lost, causes. The
	 * peaks, the end, the ratios and the phases in it are the main stream's. */
	struct ledger_result total;
};

enum analysis_wants {
	ANALYSIS_TIMELINES = 1, /* a time line a stream is kept */
	ANALYSIS_PEAKS = 2,     /* the heap is laid out at its peaks, too */
	ANALYSIS_MAP = 4,       /* the address map */
	ANALYSIS_INSTANTS = 8,  /* the heap is laid out at even times, and at its snapshots */
	ANALYSIS_SITES = 16     /* all sites of the peak of what is mapped are kept */
};

/* `wants`: of enum analysis_wants; `top`, `group_by` and `window` are kept, all else is set. 0 or
 * -errno, then trace->error says why. */
int analysis_run(struct analysis *analysis, struct trace *trace, unsigned wants);
void analysis_free(struct analysis *analysis);

/* Rows of a table or list that has `usual` ones. */
static inline size_t analysis_top(const struct analysis *analysis, size_t usual)
{
	return analysis->top ? analysis->top : usual;
}

/* Allocator calls and system calls (of the allocator) in a result. */
uint64_t analysis_calls(const struct ledger_result *result);
uint64_t analysis_syscalls(const struct ledger_result *result, unsigned kind);
uint64_t analysis_all_syscalls(const struct ledger_result *result);

/* Events lost: what the header counted or what the marks say, whichever knows more. */
uint64_t analysis_lost(const struct analysis_stream *stream);

bool analysis_stream_complete(const struct analysis_stream *stream);

/* The recording of it ended first, as it should: what it did then is not in the trace. */
bool analysis_ran_on(const struct trace_stream *stream);

/* A log of another tool: all but calls, addresses and sizes is unknown. */
bool analysis_imported(const struct analysis *analysis);

/* The program's own last process image: how it ended is how the program ended. NULL without any. */
const struct trace_stream *analysis_program(const struct analysis *analysis);

/* Needs `describe`, if there is to be one. */
void findings_make(struct findings *findings, const struct analysis *analysis);

/* `site`, `size`, `thread`, `module`; and which has that name, or ANALYSIS_UNGROUPED. */
const char *analysis_group_name(enum analysis_group by);
enum analysis_group analysis_group_named(const char *name);

/* With group_by; needs `describe`, if there is to be one. 0 or -ENOMEM. */
int groups_make(struct analysis *analysis);
void groups_free(struct analysis_stream *entry);

/* The outputs. 0 or -errno; summary returns nothing, it writes to stdout. */
int json_write(const struct analysis *analysis, const char *path);
int json_map_write(const struct analysis *analysis, const char *path);
int csv_write(const struct analysis *analysis, const char *directory, char *error, size_t length);
void summary_print(const struct analysis *analysis);

/* A string of bytes that may be no UTF-8: then they are taken for Latin-1. */
json_t *json_text(const char *bytes, size_t length);

/* What share of something, percent; -1 when it cannot be said. */
static inline double analysis_fragmentation(double ratio)
{
	return ratio > 0 ? (ratio - 1) * 100 : -1;
}

#endif
