/* SPDX-License-Identifier: MIT
 *
 * Counters and their buckets.
 */
#include "tally.h"

#include <errno.h>
#include <stdlib.h>

int tally_cause(struct tally_causes *causes, const struct tally_cause *add)
{
	size_t i = 0;
	for (; i < causes->count; i++) {
		const struct tally_cause *cause = &causes->list[i];
		if (cause->syscall == add->syscall && cause->reason == add->reason &&
			cause->call == add->call)
			break;
	}
	if (i == causes->capacity) {
		size_t capacity = causes->capacity ? causes->capacity * 2 : 16;
		struct tally_cause *list = realloc(causes->list, capacity * sizeof(*list));
		if (!list)
			return -ENOMEM;
		causes->list = list;
		causes->capacity = capacity;
	}
	struct tally_cause *cause = &causes->list[i];
	if (i == causes->count) {
		causes->count++;
		*cause = *add;
		return 0;
	}
	cause->count += add->count;
	cause->failed += add->failed;
	cause->bytes += add->bytes;
	cause->returned += add->returned;
	cause->ticks += add->ticks;
	return 0;
}

/* The largest value that tally_bucket puts into this bucket. */
static uint64_t bucket_limit(unsigned bucket, unsigned step_bits)
{
	unsigned octave = bucket >> step_bits;
	if (!octave)
		return bucket;
	uint64_t step = (bucket & ((1u << step_bits) - 1)) + (UINT64_C(1) << step_bits);
	return (step << (octave - 1)) + ((UINT64_C(1) << (octave - 1)) - 1);
}

uint64_t tally_size_limit(unsigned class_index)
{
	if (class_index >= TALLY_SIZES - 1)
		return UINT64_MAX;
	return bucket_limit(class_index + tally_bucket(15, 2), 2) + 1;
}

uint64_t tally_latency_limit(unsigned bucket)
{
	return bucket_limit(bucket, TALLY_LATENCY_BITS);
}

void tally_latency(struct tally_latency *latency, uint64_t ns, uint64_t bytes)
{
	latency->bytes[tally_latency_bucket(ns)] += bytes;
	latency->total_bytes += bytes;
	if (ns > latency->max_ns)
		latency->max_ns = ns;
}

void tally_latency_merge(struct tally_latency *to, const struct tally_latency *from)
{
	for (unsigned i = 0; i < TALLY_LATENCIES; i++)
		to->bytes[i] += from->bytes[i];
	to->total_bytes += from->total_bytes;
	if (from->max_ns > to->max_ns)
		to->max_ns = from->max_ns;
}

uint64_t tally_percentile(const struct tally_latency *latency, unsigned percent)
{
	double wanted = (double)latency->total_bytes * percent / 100;
	double seen = 0;
	for (unsigned i = 0; i < TALLY_LATENCIES; i++) {
		seen += (double)latency->bytes[i];
		if (latency->bytes[i] && seen >= wanted)
			return tally_latency_limit(i) < latency->max_ns ? tally_latency_limit(i)
									: latency->max_ns;
	}
	return latency->max_ns;
}
