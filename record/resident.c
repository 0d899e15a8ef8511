/* SPDX-License-Identifier: MIT
 *
 * See resident.h. The process runs on meanwhile: each page was so at some time of the snapshot.
 * What is mapped after maps was read is not in it.
 */
#include "resident.h"
#include "look.h"
#include "pagemap.h"
#include "sample.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

uint64_t resident_worked_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static int make_room(struct resident_snapshot *snapshot)
{
	size_t capacity = snapshot->capacity == 0 ? 256 : snapshot->capacity * 2;
	struct hl_mark_record *grown;

	if (snapshot->count < snapshot->capacity)
		return 0;
	grown = realloc(snapshot->record, capacity * sizeof(*grown));
	if (grown == NULL)
		return -ENOMEM;
	snapshot->record = grown;
	snapshot->capacity = capacity;
	return 0;
}

struct taking {
	struct resident_snapshot *snapshot;
	size_t most;
	bool other; /* memory of files and stacks, of which only what is the process's own counts */
};

static int take_run(void *context, const struct pagemap_run *run)
{
	struct taking *taking = context;
	struct resident_snapshot *snapshot = taking->snapshot;
	struct hl_mark_record *last = &snapshot->record[snapshot->count - 1];
	unsigned flags = run->flags | (taking->other ? HL_RESIDENT_OTHER : 0);
	int rc;

	if (taking->other && run->file)
		return 0;
	if (snapshot->count > 1 && hl_addr_of(last->kind_addr) + last->size == run->start &&
		last->chunk == flags) {
		last->size += run->end - run->start;
		return 0;
	}
	if (snapshot->count > taking->most) {
		snapshot->cut = true;
		return 1;
	}
	rc = make_room(snapshot);
	if (rc != 0)
		return rc;
	snapshot->record[snapshot->count++] = (struct hl_mark_record){
		.tick = snapshot->record[0].tick,
		.kind_addr = hl_kind_addr(HL_KIND_resident_run, run->start),
		.size = run->end - run->start,
		.chunk = flags,
	};
	return 0;
}

static int scan(struct resident_snapshot *snapshot, struct pagemap *pagemap,
	const struct look *look, size_t most)
{
	struct taking taking = {snapshot, most, false};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < look->count; i++) {
		const struct look_range *range = &look->range[i];

		taking.other = range->other;
		rc = pagemap_scan(pagemap, range->start, range->end, take_run, &taking);
	}
	return rc < 0 ? rc : 0;
}

static bool has_ended(int pidfd)
{
	struct pollfd ended = {.fd = pidfd, .events = POLLIN};

	return pidfd < 0 || poll(&ended, 1, 0) > 0;
}

static int take_sample(struct hl_sample_record *sample, const struct resident_request *request)
{
	uint64_t tick = session_tick(request->session);
	int rc = sample_read(sample, request->pid);

	sample->tick = rc == 0 ? tick : 0;
	return rc;
}

/* smaps_rollup takes long: what the kernel counts is read after it, close to the pages. */
static int take_first(struct resident_snapshot *snapshot, const struct resident_request *request)
{
	struct hl_sample_record rollup = {0};
	uint64_t began = resident_worked_ns();
	int rc = request->rollup ? sample_rollup(&rollup, request->pid) : 0;

	snapshot->rollup_ns = resident_worked_ns() - began;
	if (rc == 0)
		rc = take_sample(&snapshot->before, request);
	snapshot->before.anonymous = rollup.anonymous;
	snapshot->before.anon_huge = rollup.anon_huge;
	return rc;
}

/* What could not be read is not told. */
static int take_caches(struct caches_held *caches, const struct resident_request *request)
{
	struct caches_source source =
		caches_source(request->session, request->pid, request->serial, request->caches);

	return caches_take(caches, &source) == -ENOMEM ? -ENOMEM : 0;
}

static int begin(struct resident_snapshot *snapshot, const struct resident_request *request)
{
	int rc;

	snapshot->count = 0;
	snapshot->cut = false;
	snapshot->before.tick = 0;
	snapshot->after.tick = 0;
	if (make_room(snapshot) != 0)
		return -ENOMEM;
	rc = take_first(snapshot, request);
	if (rc != 0)
		return rc;
	rc = take_caches(&snapshot->caches, request);
	snapshot->record[snapshot->count++] = (struct hl_mark_record){
		.tick = snapshot->caches.count > 0 ? snapshot->caches.tick
						   : session_tick(request->session)};
	return rc;
}

static void end(struct resident_snapshot *snapshot, const struct resident_request *request)
{
	struct hl_mark_record *first = &snapshot->record[0];

	first->kind_addr = hl_kind_addr(
		HL_KIND_resident_begin, request->reason | (snapshot->cut ? HL_RESIDENT_CUT : 0));
	first->size = session_tick(request->session) - first->tick;
	first->chunk = snapshot->count - 1;
	if (take_sample(&snapshot->after, request) != 0)
		snapshot->after.tick = 0;
}

/* pagemap is opened first: if the memory that it is of is still in use at the end, there was no
 * exec and no exit in between, and maps was of the same. */
int resident_take(struct resident_snapshot *snapshot, const struct resident_request *request)
{
	struct look look = {0};
	struct pagemap pagemap;
	int rc = pagemap_open(&pagemap, request->pid);

	if (rc != 0)
		return rc == -ENOENT ? -ESRCH : rc;
	rc = has_ended(request->pidfd) ? -ESRCH : begin(snapshot, request);
	if (rc == 0)
		rc = look_take(&look, request->pid, request->session->path, LOOK_PRIVATE);
	if (rc == 0)
		rc = scan(snapshot, &pagemap, &look, request->most_runs);
	if (rc == 0 && !pagemap_alive(&pagemap))
		rc = -ESRCH;
	if (rc == 0)
		end(snapshot, request);
	look_free(&look);
	pagemap_close(&pagemap);
	return rc;
}

void resident_free(struct resident_snapshot *snapshot)
{
	free(snapshot->record);
	caches_free(&snapshot->caches);
	*snapshot = (struct resident_snapshot){0};
}
