/* SPDX-License-Identifier: MIT
 *
 * See returns.h. Aalen and Johansen 1978: of the bytes that are still free and seen, the share that
 * goes back (or is reused) in a bucket of time, times the share of all that got this far. What
 * falls into a bucket counts at its end; what ceases to be seen there was at risk throughout.
 */
#include "returns.h"

static uint64_t sum(const struct tally_latency *latency)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < TALLY_LATENCIES; i++)
		bytes += latency->bytes[i];
	return bytes;
}

/* What is known after some buckets. */
struct course {
	uint64_t at_risk;
	double left; /* share of bytes that neither went back nor were reused */
	double returned;
	double reused;
};

static bool pass_bucket(struct course *course, const struct returns *returns, unsigned bucket)
{
	uint64_t returned = returns->returned->bytes[bucket];
	uint64_t reused = returns->reused->bytes[bucket];
	uint64_t gone = returned + reused + returns->waiting->bytes[bucket];
	if (!gone || !course->at_risk)
		return false;
	double part = course->left / (double)course->at_risk;
	course->returned += part * (double)returned;
	course->reused += part * (double)reused;
	course->left -= part * ((double)returned + (double)reused);
	course->at_risk -= gone < course->at_risk ? gone : course->at_risk;
	return true;
}

size_t returns_incidence(const struct returns *returns, struct returns_step step[RETURNS_STEPS])
{
	struct course course = {
		.at_risk = sum(returns->returned) + sum(returns->reused) + sum(returns->waiting),
		.left = 1};
	size_t count = 0;
	for (unsigned octave = 0; octave < RETURNS_STEPS; octave++) {
		bool moved = false;
		for (unsigned i = 0; i < 8; i++)
			moved |= pass_bucket(&course, returns, octave * 8 + i);
		if (moved)
			step[count++] = (struct returns_step){
				.up_to_ns = tally_latency_limit(octave * 8 + 7),
				.at_risk_bytes = course.at_risk,
				.returned = course.returned,
				.reused = course.reused};
	}
	return count;
}
