/* SPDX-License-Identifier: MIT
 *
 * What becomes of a freed page, by how long it has been free: it goes back to the kernel, or a block
 * lies on it again, which ends its chance to go back; the end of the log cuts its time short.
 */
#ifndef HEAPLEDGER_RETURNS_H
#define HEAPLEDGER_RETURNS_H

#include "tally.h"

#define RETURNS_STEPS (TALLY_LATENCIES / 8) /* one for each doubling of ns */

/* Bytes by the time that they were free. */
struct returns {
	const struct tally_latency *returned;
	const struct tally_latency *reused;
	const struct tally_latency *waiting; /* free at the end of the log */
};

struct returns_step {
	uint64_t up_to_ns;
	uint64_t at_risk_bytes; /* that were seen free for longer than up_to_ns */
	double returned;        /* share of freed bytes that went back within up_to_ns */
	double reused;
};

/* The cumulative incidence of both, after Aalen and Johansen; a step for each doubling in which bytes
 * went back, were reused or ceased to be seen. Returns how many. */
size_t returns_incidence(const struct returns *returns, struct returns_step step[RETURNS_STEPS]);

#endif
