/* SPDX-License-Identifier: MIT
 *
 * What sizes were asked for, what they took, and how long blocks lived, as JSON; docs/analysis.md
 * has the words.
 */
#include "json_put.h"
#include "returns.h"

static void put_blocks(json_t *object, const char *const names[3],
	const struct tally_blocks *blocks, bool known, bool chunk_known)
{
	put_known(object, names[0], known, (int64_t)blocks->count);
	put_known(object, names[1], known, (int64_t)blocks->bytes);
	put_known(object, names[2], known && chunk_known, (int64_t)blocks->chunk);
}

json_t *json_sizes(const struct ledger_result *result)
{
	static const char *const all[] = {"count", "bytes", "chunk_bytes"};
	static const char *const peak[] = {"peak_count", "peak_bytes", "peak_chunk_bytes"};
	static const char *const live[] = {"live_count", "live_bytes", "live_chunk_bytes"};
	bool ours = !result->observed;
	if (result->calls_unknown)
		return NULL;
	json_t *array = json_array();
	for (unsigned i = 0; i < TALLY_SIZES; i++) {
		const struct tally_size *size = &result->sizes[i];
		if (!size->all.count && !size->live.count && !size->peak.count)
			continue;
		json_t *object = json_object();
		put_count(object, "up_to_bytes", tally_size_limit(i));
		put_blocks(object, all, &size->all, true, ours);
		put_blocks(object, peak, &size->peak, result->peak_sizes_known, ours);
		put_blocks(object, live, &size->live, true, ours);
		json_array_append_new(array, object);
	}
	return array;
}

/* ---- lifetimes ------------------------------------------------------------------------------- */

static void put_sums(json_t *object, const struct lifetimes *lifetimes, unsigned doubling)
{
	struct lifetimes_count freed = lifetimes_sum(lifetimes, LIFETIMES_FREED, doubling);
	struct lifetimes_count live = lifetimes_sum(lifetimes, LIFETIMES_LIVE, doubling);
	put_count(object, "freed_blocks", freed.blocks);
	put_count(object, "freed_bytes", freed.bytes);
	put_count(object, "live_blocks", live.blocks);
	put_count(object, "live_bytes", live.bytes);
}

static json_t *histogram(const struct tally_latency *freed, const struct tally_latency *live,
	const char *up_to)
{
	uint64_t blocks[TALLY_STEPS][LIFETIMES_ENDS] = {0};
	json_t *array = json_array();
	for (unsigned i = 0; i < TALLY_LATENCIES; i++) {
		if (!freed->bytes[i] && !live->bytes[i])
			continue;
		unsigned step = tally_step(tally_latency_limit(i));
		blocks[step][LIFETIMES_FREED] += freed->bytes[i];
		blocks[step][LIFETIMES_LIVE] += live->bytes[i];
	}
	for (unsigned step = 0; step < TALLY_STEPS; step++) {
		if (!blocks[step][LIFETIMES_FREED] && !blocks[step][LIFETIMES_LIVE])
			continue;
		json_t *object = json_object();
		put_count(object, up_to, tally_step_limit(step));
		put_count(object, "freed_blocks", blocks[step][LIFETIMES_FREED]);
		put_count(object, "live_blocks", blocks[step][LIFETIMES_LIVE]);
		json_array_append_new(array, object);
	}
	return array;
}

/* As free_to_return has it, without a rival. */
static json_t *incidence(const struct tally_latency *freed, const struct tally_latency *live,
	const char *up_to)
{
	static const struct tally_latency nothing;
	struct returns_step step[RETURNS_STEPS];
	size_t count = returns_incidence(&(struct returns){freed, &nothing, live}, step);
	json_t *array = json_array();
	for (size_t i = 0; i < count; i++) {
		json_t *object = json_object();
		put_count(object, up_to, step[i].up_to_ns);
		put_count(object, "at_risk_blocks", step[i].at_risk_bytes);
		put_real(object, "freed", step[i].returned);
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *on_clock(
	const struct lifetimes *lifetimes, enum lifetimes_clock clock, const char *up_to)
{
	struct tally_latency freed, live;
	json_t *object = json_object();
	lifetimes_read(lifetimes, clock, LIFETIMES_FREED, LIFETIMES_ALL, &freed);
	lifetimes_read(lifetimes, clock, LIFETIMES_LIVE, LIFETIMES_ALL, &live);
	put(object, "percentiles", json_percentiles(&freed));
	put(object, "histogram", histogram(&freed, &live, up_to));
	put(object, "incidence", incidence(&freed, &live, up_to));
	return object;
}

static json_t *percentiles_of(
	const struct lifetimes *lifetimes, enum lifetimes_clock clock, unsigned doubling)
{
	struct tally_latency freed;
	lifetimes_read(lifetimes, clock, LIFETIMES_FREED, doubling, &freed);
	json_t *times = json_percentiles(&freed);
	json_object_del(times, "max"); /* it is known of all only */
	return times;
}

static json_t *by_size(const struct lifetimes *lifetimes, bool times)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < TALLY_DOUBLINGS; i++) {
		if (!lifetimes_sum(lifetimes, LIFETIMES_FREED, i).blocks &&
			!lifetimes_sum(lifetimes, LIFETIMES_LIVE, i).blocks)
			continue;
		json_t *object = json_object();
		put_count(object, "up_to_bytes", tally_doubling_limit(i));
		put_sums(object, lifetimes, i);
		put(object, "lived_ns",
			times ? percentiles_of(lifetimes, LIFETIMES_TIME, i) : NULL);
		put(object, "lived_bytes", percentiles_of(lifetimes, LIFETIMES_ALLOCATED, i));
		json_array_append_new(array, object);
	}
	return array;
}

json_t *json_lifetimes(const struct ledger_result *result, bool times)
{
	const struct lifetimes *lifetimes = &result->lifetimes;
	const struct lifetimes_count *before = lifetimes->before;
	if (result->calls_unknown)
		return NULL;
	json_t *object = json_object(), *earlier = json_object();
	put_sums(object, lifetimes, LIFETIMES_ALL);
	put_count(earlier, "freed_blocks", before[LIFETIMES_FREED].blocks);
	put_count(earlier, "freed_bytes", before[LIFETIMES_FREED].bytes);
	put_count(earlier, "live_blocks", before[LIFETIMES_LIVE].blocks);
	put_count(earlier, "live_bytes", before[LIFETIMES_LIVE].bytes);
	put(object, "before", earlier);
	put(object, "time", times ? on_clock(lifetimes, LIFETIMES_TIME, "up_to_ns") : NULL);
	put(object, "allocated", on_clock(lifetimes, LIFETIMES_ALLOCATED, "up_to_bytes"));
	put(object, "sizes", by_size(lifetimes, times));
	return object;
}
