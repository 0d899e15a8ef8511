/* SPDX-License-Identifier: MIT
 *
 * The log against itself: a block is allocated, then freed, once. A record of an allocator call that
 * is not there shows at the next one of the same block, which is named; that of a block's last call
 * does not. The ledger knows what was inherited by forks. Called by verify.c.
 */
#include "analysis.h"
#include "verify.h"

static void tell(struct verify *verify, struct trace_stream *stream, enum verify_finding what,
	uint64_t count, const struct ledger_oddity *oddities)
{
	for (uint64_t i = 0; i < count; i++) {
		const struct ledger_oddity *oddity =
			&oddities[i < LEDGER_ODDITIES ? i : LEDGER_ODDITIES - 1];
		struct verify_call call = {
			.start_ns = verify->trace->origin_ns + clock_ns(&stream->clock, oddity->tick),
			.addr = oddity->addr,
			.length = oddity->size,
			.result = (int64_t)oddity->addr,
			.pid = stream->info.header.pid,
			.tid = oddity->tid & LEDGER_TID_MASK,
			.kind = oddity->kind,
		};
		verify_found(verify, what, &call);
	}
}

int verify_blocks(struct verify *verify)
{
	struct analysis analysis = {.trace = NULL};
	int rc = analysis_run(&analysis, verify->trace, 0);

	for (size_t i = 0; !rc && i < analysis.count; i++) {
		const struct ledger_result *result = &analysis.streams[i].result;
		struct trace_stream *stream = analysis.streams[i].stream;

		tell(verify, stream, VERIFY_UNKNOWN, result->anomalies.unknown_frees,
			result->unknown_free);
		tell(verify, stream, VERIFY_TWICE, result->anomalies.order_violations,
			result->order_violation);
	}
	analysis_free(&analysis);
	return rc;
}
