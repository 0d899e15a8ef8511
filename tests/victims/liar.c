/* SPDX-License-Identifier: MIT
 *
 * Part of a libheapledger.so that lies, for test_verify.py: linked so that what os.c logs comes
 * here first. HEAPLEDGER_LIE says what becomes of the tenth such call in a mapped block: `hide` its
 * munmap, `size` of its munmap is wrong by a page, `drop` its mmap. Or of the tenth allocator call
 * of other threads than the first that does not go the fastest way: `malloc` hides a malloc, `free` a free. What it did goes to
 * standard error, one line of the truth: call, thread, address, length.
 */
#include "log.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TENTH 10

/* What the linker makes of these functions and of the calls to them (--wrap). */
void __real_log_call(const struct log_call *call);
void __wrap_log_call(const struct log_call *call);
void __real_log_syscall(struct hl_syscall_record *record, uint64_t start_tick);
void __wrap_log_syscall(struct hl_syscall_record *record, uint64_t start_tick);

static _Atomic unsigned seen;

static char *put_text(char *at, const char *text)
{
	size_t length = strlen(text);

	memcpy(at, text, length);
	return at + length;
}

static char *put_hex(char *at, uint64_t value)
{
	at = put_text(at, " 0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		*at++ = "0123456789abcdef"[value >> shift & 15];
	return at;
}

static void tell(const char *name, uint64_t address, uint64_t length)
{
	char line[128], *at = put_text(line, "lie: ");

	at = put_text(at, name);
	at = put_hex(at, (uint64_t)gettid());
	at = put_hex(at, address);
	at = put_hex(at, length);
	*at++ = '\n';
	if (write(STDERR_FILENO, line, (size_t)(at - line)) < 0)
		_exit(86);
}

static bool is_tenth(const struct hl_syscall_record *record, unsigned kind)
{
	return hl_kind_of(record->kind_addr) == kind &&
	       (record->cause >> 16 & 0xff) == HL_REGION_block &&
	       atomic_fetch_add(&seen, 1) == TENTH - 1;
}

void __wrap_log_syscall(struct hl_syscall_record *record, uint64_t start_tick)
{
	const char *lie = getenv("HEAPLEDGER_LIE");
	bool drop = lie != NULL && strcmp(lie, "drop") == 0;

	if (lie == NULL || !is_tenth(record, drop ? HL_KIND_mmap : HL_KIND_munmap)) {
		__real_log_syscall(record, start_tick);
		return;
	}
	tell(drop ? "mmap" : "munmap",
		drop ? (uint64_t)record->result : hl_addr_of(record->kind_addr), record->length);
	if (strcmp(lie, "size") != 0)
		return;
	record->length -= 4096;
	__real_log_syscall(record, start_tick);
}

void __wrap_log_call(const struct log_call *call)
{
	const char *lie = getenv("HEAPLEDGER_LIE");
	bool gives = lie != NULL && strcmp(lie, "malloc") == 0 && call->kind == HL_KIND_malloc;
	bool takes = lie != NULL && strcmp(lie, "free") == 0 && call->kind == HL_KIND_free;

	/* In the main thread blocks may live for ever, and nothing would come after. */
	if ((!gives && !takes) || gettid() == getpid() || atomic_fetch_add(&seen, 1) != TENTH - 1)
		__real_log_call(call);
	else
		tell(lie, (uint64_t)(uintptr_t)call->addr, call->size);
}
