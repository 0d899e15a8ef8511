/* SPDX-License-Identifier: MIT
 *
 * What the recorder saw of the process: samples of its resident memory, and snapshots of the
 * pages that were in memory.
 */
#include "ledger_parts.h"

#include <string.h>

/* The highest that the kernel has seen; of a process that ran before, only if it rose since the first
 * sample. */
static uint64_t peak_since(
	const struct ledger_result *result, const struct hl_sample_record *sample)
{
	bool older = (result->attached || result->windowed) &&
		     (!result->samples || sample->rss_peak == result->first_sample.rss_peak);
	return older ? 0 : sample->rss_peak;
}

/* The end is told by the process itself, at rest: what it counts just after is what was there. Between
 * the two the recorder may take a sample of its own, of before the last pages were touched. */
static void count_after(struct ledger *ledger, uint32_t tid, uint64_t rss_anon)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct ledger_counted *counted = &snapshot->counted;
	if (!snapshot->whole || counted->has_after || tid != snapshot->tid)
		return;
	counted->after = rss_anon;
	counted->has_after = true;
	if (snapshot->reason == HL_RESIDENT_end)
		*counted = (struct ledger_counted){rss_anon, rss_anon, true, true};
	if (snapshot->is_peak)
		ledger->result->peak.snapshot_counted = *counted;
}

bool ledger_snapshot_of_end(const struct ledger *ledger)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	return snapshot->reason == HL_RESIDENT_end ||
	       (snapshot->end_told &&
		       !memcmp(&snapshot->at_end, &ledger->memory, sizeof(ledger->memory)));
}

bool ledger_residual(const struct ledger_counted *counted, uint64_t found, int64_t *residual)
{
	uint64_t before = counted->before, after = counted->has_after ? counted->after : before;
	if (!counted->has_before)
		before = after;
	uint64_t low = before < after ? before : after, high = before < after ? after : before;
	uint64_t nearest = found < low ? low : found > high ? high : found;
	*residual = (int64_t)(nearest - found);
	return counted->has_before || counted->has_after;
}

int ledger_sampled(struct ledger *ledger, uint32_t tid, const struct hl_sample_record *sample)
{
	struct ledger_result *result = ledger->result;
	struct ledger_ratio *ratio = &result->resident_ratio;
	struct ledger_peak *peak = &result->peak;
	uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	uint64_t highest = peak_since(result, sample);
	uint64_t best = rss > highest ? rss : highest;
	uint64_t own = rss - (sample->recorder < rss ? sample->recorder : rss);

	best -= sample->recorder < best ? sample->recorder : best;
	if (best > peak->rss)
		peak->rss = best;
	if (!result->samples || own > result->max_sampled_rss) {
		result->max_sampled_rss = own;
		peak->rss_tick = sample->tick;
		peak->rss_record = ledger->applied;
	}
	if (sample->recorder > peak->recorder)
		peak->recorder = sample->recorder;
	if ((double)sample->rss_anon > ratio->max_held) {
		ratio->max_held = (double)sample->rss_anon;
		ratio->at_peak_held = ratio_of(ratio->max_held, (double)ledger->memory.requested);
	}
	if (!result->samples)
		result->first_sample = *sample;
	result->samples++;
	phases_sampled(&result->phases, own);
	count_after(ledger, tid, sample->rss_anon);
	result->last_sample = *sample;
	note_requested(ledger, sample->tick);
	return timeline_add_sample(&ledger->timeline, sample);
}

/* ---- snapshots of resident pages ------------------------------------------------------------- */

static int complete_snapshot(struct ledger *ledger)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct ledger_peak *peak = &ledger->result->peak;
	snapshot->whole = true;
	if (snapshot->reason == HL_RESIDENT_end) {
		snapshot->end_told = true;
		snapshot->at_end = ledger->memory;
	}
	snapshot->is_peak = false;
	snapshot->counted = (struct ledger_counted){
		.before = ledger->result->last_sample.rss_anon,
		.has_before = ledger->result->samples > 0,
	};
	int rc = still_begin(&ledger->still, snapshot);
	if (rc || snapshot->cut || snapshot->bytes <= peak->snapshot_bytes)
		return rc;
	peak->snapshot_bytes = snapshot->bytes;
	peak->snapshot_record = ledger->applied;
	peak->snapshot_counted = snapshot->counted;
	snapshot->is_peak = true;
	return 0;
}

int ledger_snapshot_begins(struct ledger *ledger, uint32_t tid, const struct hl_mark_record *mark)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	uint64_t addr = hl_addr_of(mark->kind_addr);
	snapshot->count = 0;
	snapshot->bytes = 0;
	snapshot->tid = tid;
	snapshot->tick = mark->tick;
	snapshot->took = mark->size;
	snapshot->left = mark->chunk;
	snapshot->reason = (unsigned)(addr & HL_RESIDENT_REASON_MASK);
	snapshot->cut = addr & HL_RESIDENT_CUT;
	snapshot->whole = false;
	return snapshot->left ? 0 : complete_snapshot(ledger);
}

/* Runs that follow each other with other flags are one here. */
static int add_run(struct ledger_snapshot *snapshot, struct range run)
{
	struct range *last = snapshot->count ? &snapshot->run[snapshot->count - 1] : NULL;
	snapshot->bytes += run.end - run.start;
	if (last && last->end == run.start) {
		last->end = run.end;
		return 0;
	}
	struct range *list = room_for_one(
		snapshot->run, snapshot->count, &snapshot->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	snapshot->run = list;
	snapshot->run[snapshot->count++] = run;
	return 0;
}

/* What is in swap, or was never written, takes no memory. A run out of order spoils the snapshot. */
int ledger_snapshot_run(struct ledger *ledger, const struct hl_mark_record *mark)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct range run = {hl_addr_of(mark->kind_addr), hl_addr_of(mark->kind_addr) + mark->size};
	uint64_t before = snapshot->count ? snapshot->run[snapshot->count - 1].end : 0;
	if (mark->tick != snapshot->tick || !snapshot->left)
		return 0;
	if (run.end <= run.start || run.start < before || run.end > HL_ADDRESS_MASK) {
		snapshot->left = 0;
		return 0;
	}
	if (!(mark->chunk & (HL_RESIDENT_SWAPPED | HL_RESIDENT_ZERO)) && add_run(snapshot, run))
		return -ENOMEM;
	return --snapshot->left ? 0 : complete_snapshot(ledger);
}
