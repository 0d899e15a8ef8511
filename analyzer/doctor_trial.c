/* SPDX-License-Identifier: MIT
 *
 * What `heapledger doctor` tries with a recorded program: the shell, which allocates, where true
 * does not. Each trial is the command itself, as a user would run it.
 */
#include "doctor.h"

#include "launch.h"
#include "symbols.h"
#include "tool.h"
#include "trace.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBC "/libc.so.6"

static struct {
	char folder[PATH_MAX - 16];
	bool open; /* trace is that of the first trial, and has events */
	struct trace trace;
} trial;

static bool make_folder(struct finding *finding)
{
	const char *temporary = getenv("TMPDIR");

	if (trial.folder[0])
		return true;
	snprintf(trial.folder, sizeof(trial.folder), "%s/heapledger-doctor-XXXXXX",
		temporary && *temporary ? temporary : "/tmp");
	if (mkdtemp(trial.folder))
		return true;
	doctor_find(finding, DOCTOR_MISSING, "%s: %s: set TMPDIR to a folder that can be written",
		trial.folder, strerror(errno));
	trial.folder[0] = '\0';
	return false;
}

/* Records the shell into `name` in the folder. */
static bool record_shell(
	struct finding *finding, const char *name, char *extra, char *value, struct trace *trace)
{
	char self[] = "/proc/self/exe", record[] = "record", option[] = "-o", path[PATH_MAX];
	char kernel[] = "--kernel", off[] = "off", shell[] = "/bin/sh", command[] = "-c";
	char script[] = ":";
	char *argv[] = {self, record, option, path, kernel, off, extra, value, shell, command,
		script, NULL};
	struct child child;
	uint64_t records;

	*trace = (struct trace){0};
	if (!make_folder(finding))
		return false;
	snprintf(path, sizeof(path), "%s/%s", trial.folder, name);
	if (doctor_run(&child, argv, NULL)) {
		doctor_find(finding, DOCTOR_MISSING, "a trial failed: %s", child.said);
		return false;
	}
	if (trace_open(trace, path) || trace_read_stacks(trace)) {
		doctor_find(finding, DOCTOR_MISSING, "the trace of a trial cannot be read: %s",
			trace->error);
		return false;
	}
	records = trace_records(trace);
	if (records)
		doctor_find(finding, DOCTOR_OK, "works (a trial gave %llu events)",
			(unsigned long long)records);
	else
		doctor_find(finding, DOCTOR_MISSING,
			"a trial gave no event: set HEAPLEDGER_LIBRARY to the library of this "
			"version");
	return records != 0;
}

/* HEAPLEDGER_LIBRARY may name the other one. */
static void check_mode(struct finding *finding, const struct trace *trace, const char *library)
{
	bool observed = !strcmp(library, LAUNCH_OBSERVER);

	if (trace->streams[0].info.header.mode != observed)
		doctor_find(finding, DOCTOR_LIMITED,
			"HEAPLEDGER_LIBRARY names another library than %s, which this is with",
			library);
}

void doctor_record(struct finding *finding)
{
	char stacks[] = "--stacks", depth[] = "16";

	trial.open = record_shell(finding, "trace", stacks, depth, &trial.trace);
	if (trial.open)
		check_mode(finding, &trial.trace, LAUNCH_ALLOCATOR);
}

void doctor_observe(struct finding *finding)
{
	char observe[] = "--observe", end[] = "--";
	struct trace trace;

	if (record_shell(finding, "observed", observe, end, &trace))
		check_mode(finding, &trace, LAUNCH_OBSERVER);
	else if (finding->state == DOCTOR_MISSING)
		finding->state = DOCTOR_LIMITED; /* not needed to record */
	trace_close(&trace);
}

void doctor_stacks(struct finding *finding)
{
	const struct stacks *stacks = &trial.trace.stacks;
	size_t broken = 0, deepest = 0;

	if (!trial.open) {
		doctor_find(finding, DOCTOR_LIMITED, "not known: see recording");
		return;
	}
	for (size_t i = 0; i < stacks->count; i++) {
		broken += stacks->stacks[i].end == HL_STACK_BROKEN;
		if (stacks->stacks[i].count > deepest)
			deepest = stacks->stacks[i].count;
	}
	if (!stacks->count)
		doctor_find(finding, DOCTOR_LIMITED,
			"record --stacks gave none: it needs glibc 2.35 or later");
	else if (broken == stacks->count)
		doctor_find(finding, DOCTOR_LIMITED,
			"none of the trial's %zu stacks could be unwound to its end: /bin/sh or "
			"the "
			"C library is without unwind tables (.eh_frame)",
			stacks->count);
	else
		doctor_find(finding, DOCTOR_OK,
			"%zu of the trial's %zu stacks are whole, up to %zu frames deep",
			stacks->count - broken, stacks->count, deepest);
}

struct named {
	size_t frames, named, lines, libc;
};

static int count_names(struct symbols *symbols, struct named *named)
{
	const struct stacks *stacks = &trial.trace.stacks;
	struct symbol_place place;
	int rc = 0;

	for (size_t i = 0; !rc && i < stacks->frame_count; i++) {
		rc = symbols_find(
			symbols, &trial.trace.streams[0], UINT64_MAX, stacks->frames[i], &place);
		bool libc = place.module && strstr(place.module->path, LIBC);
		bool line = place.count && place.symbols[0].line;

		named->frames++;
		named->named += place.count && place.symbols[0].function;
		named->lines += line;
		named->libc += libc && line;
	}
	return rc;
}

/* What is shown is what `dump --stacks` would show. */
void doctor_symbols(struct finding *finding)
{
	struct symbols *symbols = trial.open ? symbols_open(&trial.trace) : NULL;
	struct named named = {0};

	if (!symbols || count_names(symbols, &named) || !named.frames)
		doctor_find(finding, DOCTOR_LIMITED, "not known: there is no stack to name");
	else if (!named.libc)
		doctor_find(finding, DOCTOR_LIMITED,
			"%zu of the trial's %zu frames have a function's name, %zu file and line. "
			"Those of the C library: apt install libc6-dbg; other packages have "
			"-dbgsym ones, and your program needs -g",
			named.named, named.frames, named.lines);
	else
		doctor_find(finding, DOCTOR_OK,
			"%zu of the trial's %zu frames have a function's name, %zu file and line",
			named.named, named.frames, named.lines);
	symbols_close(symbols);
}

void doctor_trial_end(void)
{
	char program[] = "rm", option[] = "-rf", end[] = "--";
	char *argv[] = {program, option, end, trial.folder, NULL};
	struct child child;

	trace_close(&trial.trace);
	if (trial.folder[0])
		doctor_run(&child, argv, NULL);
}
