/* SPDX-License-Identifier: MIT
 *
 * What freed memory waited for and what blocks pinned, as JSON; docs/analysis.md has the words.
 */
#include "json_put.h"
#include "returns.h"

#define NS_PER_SECOND 1e9

static json_t *histogram(const struct tally_latency *latency)
{
	json_t *array = json_array();
	for (unsigned octave = 0; octave < TALLY_LATENCIES / 8; octave++) {
		uint64_t bytes = 0;
		for (unsigned i = 0; i < 8; i++)
			bytes += latency->bytes[octave * 8 + i];
		if (!bytes)
			continue;
		json_t *entry = json_object();
		put_count(entry, "up_to_ns", tally_latency_limit(octave * 8 + 7));
		put_count(entry, "bytes", bytes);
		json_array_append_new(array, entry);
	}
	return array;
}

/* `event` and `rival`: the names of the two ways in which a wait ends. */
static json_t *incidence(const struct returns *returns, const char *event, const char *rival)
{
	struct returns_step step[RETURNS_STEPS];
	size_t count = returns_incidence(returns, step);
	json_t *array = json_array();
	for (size_t i = 0; i < count; i++) {
		json_t *entry = json_object();
		put_count(entry, "up_to_ns", step[i].up_to_ns);
		put_count(entry, "at_risk_bytes", step[i].at_risk_bytes);
		put(entry, event, json_real(step[i].returned));
		put(entry, rival, json_real(step[i].reused));
		json_array_append_new(array, entry);
	}
	return array;
}

json_t *json_percentiles(const struct tally_latency *latency)
{
	if (!latency->total_bytes)
		return NULL;
	json_t *times = json_object();
	put_count(times, "p50", tally_percentile(latency, 50));
	put_count(times, "p90", tally_percentile(latency, 90));
	put_count(times, "p99", tally_percentile(latency, 99));
	put_count(times, "max", latency->max_ns);
	return times;
}

static json_t *pinned_object(const struct waits *waits)
{
	const struct waits_split *split = &waits->split;
	struct tally_latency ended = split->held[WAITS_RETURNED];
	json_t *object = json_object();
	tally_latency_merge(&ended, &split->held[WAITS_REUSED]);
	put_count(object, "cleared_page_bytes", split->cleared.total_bytes);
	put_count(object, "returned_page_bytes", split->held[WAITS_RETURNED].total_bytes);
	put_count(object, "reused_page_bytes", split->held[WAITS_REUSED].total_bytes);
	put_count(object, "never_page_bytes", split->held[WAITS_STILL].total_bytes);
	put_real(object, "byte_seconds", waits->waited[WAITS_PINNED] / NS_PER_SECOND);
	put(object, "time_ns", json_percentiles(&split->pinned));
	put(object, "incidence",
		incidence(&(struct returns){&split->cleared, &ended, &split->held[WAITS_STILL]},
			"cleared", "ended"));
	return object;
}

static json_t *policy_object(const struct waits *waits)
{
	const struct tally_latency *policy = waits->split.policy;
	json_t *object = json_object();
	put_count(object, "returned_page_bytes", policy[WAITS_RETURNED].total_bytes);
	put_count(object, "reused_page_bytes", policy[WAITS_REUSED].total_bytes);
	put_count(object, "never_page_bytes", policy[WAITS_STILL].total_bytes);
	put_real(object, "byte_seconds", waits->waited[WAITS_POLICY] / NS_PER_SECOND);
	put(object, "time_ns", json_percentiles(&policy[WAITS_RETURNED]));
	put(object, "incidence",
		incidence(&(struct returns){&policy[WAITS_RETURNED], &policy[WAITS_REUSED],
				  &policy[WAITS_STILL]},
			"returned", "reused"));
	return object;
}

static json_t *times_object(const struct waits_times *times, enum waits_part part)
{
	if (!times)
		return NULL;
	json_t *object = json_object();
	put_count(object, "p50", waits_percentile(times, part, 50));
	put_count(object, "p90", waits_percentile(times, part, 90));
	put_count(object, "p99", waits_percentile(times, part, 99));
	return object;
}

static void put_sum(json_t *object, const struct waits_sum *sum)
{
	const uint64_t *bytes = sum->bytes;
	double all = (double)bytes[WAITS_RETURNED] + (double)bytes[WAITS_REUSED] +
		     (double)bytes[WAITS_STILL];
	put_count(object, "returned_page_bytes", bytes[WAITS_RETURNED]);
	put_count(object, "reused_page_bytes", bytes[WAITS_REUSED]);
	put_count(object, "never_page_bytes", bytes[WAITS_STILL]);
	put_real(object, "never", all > 0 ? (double)bytes[WAITS_STILL] / all : NAN);
	put_real(object, "pinned_byte_seconds", sum->waited[WAITS_PINNED] / NS_PER_SECOND);
	put_real(object, "policy_byte_seconds", sum->waited[WAITS_POLICY] / NS_PER_SECOND);
	put(object, "pinned_ns", times_object(sum->times, WAITS_PINNED));
	put(object, "policy_ns", times_object(sum->times, WAITS_POLICY));
}

static json_t *sizes_array(const struct waits *waits)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < TALLY_SIZES; i++) {
		if (!waits->sizes[i])
			continue;
		json_t *object = json_object();
		put_count(object, "up_to_bytes", tally_size_limit(i));
		put_sum(object, waits->sizes[i]);
		json_array_append_new(array, object);
	}
	return array;
}

/* Sizes that are put together, with a curve for each. */
static json_t *groups_array(const struct waits *waits)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < WAITS_GROUPS; i++) {
		if (!waits->groups[i])
			continue;
		const struct tally_latency *ended = waits->groups[i]->ended;
		uint64_t limit = waits_group_limit(i);
		json_t *object = json_object();
		put_known(object, "up_to_bytes", limit, (int64_t)limit);
		put_count(object, "returned_page_bytes", ended[WAITS_RETURNED].total_bytes);
		put_count(object, "reused_page_bytes", ended[WAITS_REUSED].total_bytes);
		put_count(object, "never_page_bytes", ended[WAITS_STILL].total_bytes);
		put(object, "incidence",
			incidence(&(struct returns){&ended[WAITS_RETURNED], &ended[WAITS_REUSED],
					  &ended[WAITS_STILL]},
				"returned", "reused"));
		json_array_append_new(array, object);
	}
	return array;
}

static void put_place(json_t *object, const struct analysis *analysis,
	const struct analysis_stream *entry, uint64_t caller)
{
	json_put_origin(object, analysis, entry, entry->stream->info.last_tick, caller);
}

static json_t *sites_array(const struct analysis *analysis, const struct analysis_stream *entry)
{
	json_t *array = json_array();
	for (size_t i = 0; entry && i < entry->result.waits.count; i++) {
		const struct waits_site *site = &entry->result.waits.sites[i];
		json_t *object = json_object();
		put_sum(object, &site->sum);
		put_count(object, "held_page_bytes", site->held_bytes);
		put_real(object, "held_byte_seconds", site->held / NS_PER_SECOND);
		put_place(object, analysis, entry, site->caller);
		json_array_append_new(array, object);
	}
	return array;
}

json_t *json_free_to_return(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct ledger_result *result)
{
	const struct tally_latency *latency = &result->latency;
	const struct returns returns = {latency, &result->reused, &result->waiting};
	json_t *object = json_object();
	put_count(object, "returned_page_bytes", latency->total_bytes);
	put_count(object, "reused_page_bytes", result->reused_page_bytes);
	put_count(object, "never_page_bytes", result->never_page_bytes);
	put(object, "latency_ns", json_percentiles(latency));
	put(object, "histogram", histogram(latency));
	put(object, "incidence", incidence(&returns, "returned", "reused"));
	put(object, "pinned", pinned_object(&result->waits));
	put(object, "policy", policy_object(&result->waits));
	put(object, "sizes", sizes_array(&result->waits));
	put(object, "size_groups", groups_array(&result->waits));
	put_count(object, "sites_total", entry ? entry->result.waits.waiting_sites : 0);
	put(object, "sites", sites_array(analysis, entry));
	return object;
}

json_t *json_pins(const struct analysis *analysis, const struct analysis_stream *entry)
{
	json_t *object = json_object(), *array = json_array();
	const struct waits *waits = entry ? &entry->result.waits : NULL;
	double all = waits ? waits->pinned : 0;
	put_real(object, "byte_seconds", all / NS_PER_SECOND);
	put_count(object, "sites_total", waits ? waits->pinning_sites : 0);
	for (size_t i = 0; waits && i < waits->pin_count; i++) {
		json_t *site = json_object();
		put_real(site, "byte_seconds", waits->pins[i].pinned / NS_PER_SECOND);
		put_real(site, "share", waits->pins[i].pinned / all);
		put_place(site, analysis, entry, waits->pins[i].caller);
		json_array_append_new(array, site);
	}
	put(object, "sites", array);
	return object;
}
