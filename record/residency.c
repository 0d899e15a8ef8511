/* SPDX-License-Identifier: MIT
 *
 * See residency.h. One snapshot is under way at a time. The time that it worked is taken from an
 * account, which gets a hundredth of the time that passes: nothing begins while it is overdrawn.
 * Runs are charged, too, so that a heap full of holes fills neither the memory nor the trace.
 */
#include "residency.h"
#include "processes.h"
#include "resident.h"
#include "taking.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#define SHARE 100                        /* the work is one part in this of the time */
#define CREDIT_MOST_NS INT64_C(20000000) /* is kept for later: two seconds' worth */
#define INTERVAL_SHARE 200               /* half of it is left to what cannot wait */
#define ROLLUP_SHARE 400                 /* a quarter of it is for smaps_rollup, which is slow */
#define RUN_NS 1000                      /* what a run is charged at least */
#define RISE 32                          /* a peak is one part in this above the last ... */
#define RISE_LEAST_BYTES (UINT64_C(64) << 10) /* ... and at least this */
#define RETRY_NS UINT64_C(1000000000)
#define RUNS_MOST 4194304
#define RUNS_ENV "HEAPLEDGER_RESIDENCY_RUNS" /* for tests */

struct residency {
	struct processes *all;
	uint64_t interval_ns;
	size_t runs_most;
	int64_t credit_ns;
	uint64_t credited_ns; /* up to then */
	pthread_t thread;
	sem_t asked;
	sem_t answered;
	bool quit;
	struct process *process; /* of the snapshot under way; NULL = none */
	/* The thread has these to itself from `asked` to `answered`. */
	struct resident_request request;
	struct resident_snapshot snapshot;
	uint64_t work_ns;
	int rc;
};

static void await(sem_t *semaphore)
{
	while (sem_wait(semaphore) != 0 && errno == EINTR)
		;
}

static void *work(void *argument)
{
	struct residency *residency = argument;

	for (;;) {
		uint64_t began;

		await(&residency->asked);
		if (residency->quit)
			return NULL;
		began = resident_worked_ns();
		residency->rc = resident_take(&residency->snapshot, &residency->request);
		residency->work_ns = resident_worked_ns() - began;
		sem_post(&residency->answered);
	}
}

int residency_open(struct residency **out, struct processes *all, uint64_t interval_ns)
{
	struct residency *residency = calloc(1, sizeof(*residency));
	const char *most = getenv(RUNS_ENV);
	int rc;

	if (residency == NULL)
		return -ENOMEM;
	residency->all = all;
	residency->interval_ns = interval_ns;
	residency->runs_most = most != NULL ? strtoul(most, NULL, 10) : RUNS_MOST;
	residency->credited_ns = session_monotonic();
	sem_init(&residency->asked, 0, 0);
	sem_init(&residency->answered, 0, 0);
	rc = pthread_create(&residency->thread, NULL, work, residency);
	if (rc != 0) {
		free(residency);
		return -rc;
	}
	*out = residency;
	return 0;
}

void residency_close(struct residency *residency)
{
	if (residency == NULL)
		return;
	if (residency->process != NULL)
		await(&residency->answered);
	residency->quit = true;
	sem_post(&residency->asked);
	pthread_join(residency->thread, NULL);
	sem_destroy(&residency->asked);
	sem_destroy(&residency->answered);
	resident_free(&residency->snapshot);
	free(residency);
}

/* ---- the account ----------------------------------------------------------------------------- */

static bool may_work(struct residency *residency, uint64_t now)
{
	residency->credit_ns += (int64_t)((now - residency->credited_ns) / SHARE);
	residency->credited_ns = now - (now - residency->credited_ns) % SHARE;
	if (residency->credit_ns > CREDIT_MOST_NS)
		residency->credit_ns = CREDIT_MOST_NS;
	return residency->credit_ns >= 0;
}

/* What a snapshot is charged: the work, or its runs if they are many. */
static uint64_t charge(struct residency *residency, uint64_t work_ns)
{
	uint64_t runs_ns = residency->rc == 0 ? residency->snapshot.count * RUN_NS : 0;
	uint64_t cost_ns = work_ns > runs_ns ? work_ns : runs_ns;

	residency->credit_ns -= (int64_t)cost_ns;
	return cost_ns;
}

/* ---- what was looked at ---------------------------------------------------------------------- */

static void put_sample(
	struct residency *residency, struct process *process, struct hl_sample_record *sample)
{
	if (sample->tick == 0)
		return;
	sample->recorder = taking_recorder_bytes(residency->all, process);
	if (sample->recorder > sample->rss_shmem)
		sample->recorder = sample->rss_shmem;
	processes_put(residency->all, process, sample, hl_kind_slots(HL_KIND_sample));
}

static void put_snapshot(struct residency *residency, struct process *process)
{
	struct residency_state *state = &process->residency;
	struct resident_snapshot *snapshot = &residency->snapshot;

	put_sample(residency, process, &snapshot->before);
	if (snapshot->caches.count > 0)
		processes_put(residency->all, process, snapshot->caches.record,
			(unsigned)snapshot->caches.count);
	processes_put(residency->all, process, snapshot->record, (unsigned)snapshot->count);
	put_sample(residency, process, &snapshot->after);
	state->snapshots++;
	state->cut += snapshot->cut;
	if (residency->request.reason == HL_RESIDENT_end)
		state->end = true;
}

static void take_answer(struct residency *residency)
{
	struct process *process = residency->process;
	struct residency_state *state = &process->residency;
	uint64_t began = resident_worked_ns(), work_ns, cost_ns, rollup_ns, pause_ns;
	uint64_t now = session_monotonic();

	residency->process = NULL;
	if (residency->rc == 0)
		put_snapshot(residency, process);
	else if (residency->rc != -ESRCH)
		state->failed++;
	work_ns = residency->work_ns + (resident_worked_ns() - began);
	state->work_ns += work_ns;
	cost_ns = charge(residency, work_ns);
	rollup_ns = residency->request.rollup ? residency->snapshot.rollup_ns : 0;
	if (rollup_ns != 0)
		state->rollup_due_ns = now + rollup_ns * ROLLUP_SHARE;
	pause_ns = residency->rc == 0 ? residency->interval_ns : RETRY_NS;
	if (pause_ns < (cost_ns - rollup_ns) * INTERVAL_SHARE)
		pause_ns = (cost_ns - rollup_ns) * INTERVAL_SHARE;
	state->due_ns = now + pause_ns;
}

/* ---- what is looked at next ------------------------------------------------------------------ */

static bool can_look(const struct residency *residency, const struct process *process)
{
	return !process->gone && !process->hidden && process->replaced == 0 &&
	       process->stream != NULL && residency->all->begin_tick != UINT64_MAX;
}

/* The most urgent reason; 0 = none. */
static unsigned reason_for(
	const struct residency *residency, const struct process *process, uint64_t now)
{
	static const enum hl_resident urgent[] = {
		HL_RESIDENT_phase, HL_RESIDENT_begin, HL_RESIDENT_peak};
	const struct residency_state *state = &process->residency;

	if (!can_look(residency, process))
		return 0;
	if (!state->end_tried && residency->all->session->table[process->slot].exited != 0)
		return HL_RESIDENT_end;
	for (unsigned i = 0; i < sizeof(urgent) / sizeof(urgent[0]); i++)
		if ((state->wanted >> urgent[i] & 1) != 0)
			return urgent[i];
	return now >= state->due_ns ? HL_RESIDENT_interval : 0;
}

static unsigned urgency(unsigned reason)
{
	static const unsigned char order[HL_RESIDENT_LIMIT] = {
		[HL_RESIDENT_end] = 5,
		[HL_RESIDENT_phase] = 4,
		[HL_RESIDENT_begin] = 3,
		[HL_RESIDENT_peak] = 2,
		[HL_RESIDENT_interval] = 1,
	};
	return order[reason];
}

static void ask(struct residency *residency, struct process *process, unsigned reason, uint64_t now)
{
	struct residency_state *state = &process->residency;

	if (reason != HL_RESIDENT_phase && (state->wanted >> HL_RESIDENT_phase & 1) != 0)
		state->phases_missed++;
	state->wanted = 0;
	if (reason == HL_RESIDENT_end)
		state->end_tried = true;
	if (state->anonymous > state->highest)
		state->highest = state->anonymous;
	residency->process = process;
	residency->request = (struct resident_request){
		.session = residency->all->session,
		.pid = process->pid,
		.pidfd = process->pidfd,
		.serial = process->serial,
		.caches = process->caches,
		.reason = (enum hl_resident)reason,
		.rollup = now >= state->rollup_due_ns,
		.most_runs = residency->runs_most,
	};
	sem_post(&residency->asked);
}

void residency_round(struct residency *residency, uint64_t now)
{
	struct process *next = NULL;
	unsigned best = 0;

	if (residency == NULL)
		return;
	if (residency->process != NULL) {
		if (sem_trywait(&residency->answered) != 0)
			return;
		take_answer(residency);
	}
	if (!may_work(residency, now))
		return;
	for (struct process *p = residency->all->alive; p != NULL; p = p->next) {
		unsigned reason;

		if (p->residency.due_ns == 0)
			p->residency.due_ns = now + residency->interval_ns;
		reason = reason_for(residency, p, now);
		if (reason == 0 || (next != NULL && urgency(reason) < urgency(best)) ||
			(reason == best && p->residency.due_ns >= next->residency.due_ns))
			continue;
		next = p;
		best = reason;
	}
	if (next != NULL)
		ask(residency, next, best, now);
}

/* ---- reasons --------------------------------------------------------------------------------- */

void residency_sampled(struct residency *residency, struct process *process)
{
	struct residency_state *state = &process->residency;
	uint64_t rise = state->highest / RISE;

	if (residency == NULL)
		return;
	state->anonymous = process->sample.rss_anon;
	if (rise < RISE_LEAST_BYTES)
		rise = RISE_LEAST_BYTES;
	if (state->anonymous > state->highest + rise)
		state->wanted |= 1u << HL_RESIDENT_peak;
}

void residency_want(struct residency *residency, struct process *process, enum hl_resident reason)
{
	struct residency_state *state = &process->residency;

	if (residency == NULL)
		return;
	if (reason == HL_RESIDENT_phase && (state->wanted >> reason & 1) != 0)
		state->phases_missed++;
	if (reason == HL_RESIDENT_begin)
		state->highest = 0;
	state->wanted |= 1u << reason;
}

void residency_leave(struct residency *residency, struct process *process)
{
	struct residency_state *state = &process->residency;

	if (residency == NULL)
		return;
	if (residency->process == process) {
		await(&residency->answered);
		take_answer(residency);
	}
	state->phases_missed += state->wanted >> HL_RESIDENT_phase & 1;
	state->peak_missed = (state->wanted >> HL_RESIDENT_peak & 1) != 0;
}
