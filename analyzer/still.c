/* SPDX-License-Identifier: MIT
 *
 * still.h.
 */
#include "still.h"
#include "ledger.h"

#include <errno.h>
#include <sys/mman.h>

/* Beyond so many pieces each call takes too long: nothing is known until the next snapshot. */
#define PIECES_LIMIT 65536

int still_begin(struct still *still, const struct ledger_snapshot *snapshot)
{
	struct ranges runs = {
		.list = snapshot->run, .count = snapshot->count, .bytes = snapshot->bytes};
	if (!still->wanted)
		return 0;
	ranges_free(&still->pages);
	still->known = !snapshot->cut && snapshot->count <= PIECES_LIMIT;
	still->tick = snapshot->tick;
	still->end_tick = snapshot->tick + snapshot->took;
	return still->known ? ranges_copy(&still->pages, &runs) : 0;
}

/* What the call took out of memory; nothing of it was there before what it mapped, unless the
 * snapshot was still under way. */
static struct range gone_by(
	const struct still *still, unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr), result = (uint64_t)record->result;
	switch (kind) {
	case HL_KIND_brk:
		return (struct range){result, start};
	case HL_KIND_mmap:
		return record->tick > still->end_tick
			       ? (struct range){result, result + record->length}
			       : (struct range){0};
	case HL_KIND_mremap:
		if (start == result) /* only its end may go */
			start += record->argument;
		return (struct range){start, hl_addr_of(record->kind_addr) + record->length};
	case HL_KIND_munmap:
		return (struct range){start, start + record->length};
	case HL_KIND_madvise:
		return record->argument == MADV_DONTNEED
			       ? (struct range){start, start + record->length}
			       : (struct range){0};
	default:
		return (struct range){0};
	}
}

int still_call(struct still *still, unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t changed;
	if (!still->known)
		return 0;
	struct range gone = gone_by(still, kind, record);
	int rc = ranges_remove(&still->pages, gone.start, gone.end, &changed);
	still->known = still->pages.count <= PIECES_LIMIT;
	return rc;
}

void still_free(struct still *still)
{
	ranges_free(&still->pages);
	*still = (struct still){0};
}
