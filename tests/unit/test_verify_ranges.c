/* SPDX-License-Identifier: MIT
 *
 * What `heapledger verify` believes of a child's memory when the parent's threads were at work
 * while the copy was made: nothing that may be true is a finding, and what cannot be is one.
 */
#include "verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PAGE UINT64_C(4096)
#define AT UINT64_C(0x7ffff0000000)
#define CALLS 16

#define FORKING 100 /* the thread that forks ... */
#define OTHER 101   /* ... and one that works on */
#define MARK_NS 1000
#define BEGUN_NS 2000

static struct trace_stream streams[2]; /* the parent's and the child's */
static struct trace trace;
static struct verify verify;
static struct verify_call logged[CALLS], seen[CALLS];
static struct verify_fork fork_of_child;

static int set_up(void **unused)
{
	(void)unused;
	memset(streams, 0, sizeof(streams));
	trace = (struct trace){.streams = streams, .stream_count = 2};
	verify = (struct verify){.trace = &trace};
	verify.logged.call = logged;
	verify.kernel.call = seen;
	fork_of_child = (struct verify_fork){
		.parent = 0, .child = 1, .tid = FORKING, .ns = MARK_NS, .begun_ns = BEGUN_NS};
	verify.forks = &fork_of_child;
	verify.fork_count = 1;
	return 0;
}

static struct verify_call mapping_call(
	uint32_t stream, uint32_t tid, uint64_t ns, enum hl_kind kind, uint64_t addr)
{
	bool made = kind == HL_KIND_mmap;
	return (struct verify_call){
		.start_ns = ns,
		.end_ns = ns + 1,
		.addr = made ? 0 : addr,
		.length = PAGE,
		.result = made ? (int64_t)addr : 0,
		.pid = 100 + stream,
		.tid = tid,
		.stream = stream,
		.kind = (uint8_t)kind,
		.reason = HL_REASON_over_threshold,
	};
}

static void parent(uint32_t tid, uint64_t ns, enum hl_kind kind, uint64_t addr)
{
	logged[verify.logged.count++] = mapping_call(0, tid, ns, kind, addr);
}

static void child(uint64_t ns, enum hl_kind kind, uint64_t addr)
{
	logged[verify.logged.count++] = mapping_call(1, 102, ns, kind, addr);
}

/* A call of the child's that is not in its log; one that is tells whose it is. */
static void child_unlogged(uint64_t ns, enum hl_kind kind, uint64_t addr)
{
	struct verify_call call = mapping_call(1, 102, ns - 1, HL_KIND_mmap, AT + 900 * PAGE);
	call.matched = true;
	seen[verify.kernel.count++] = call;
	seen[verify.kernel.count++] = mapping_call(VERIFY_NO_STREAM, 102, ns, kind, addr);
	seen[verify.kernel.count - 1].pid = call.pid;
}

static void judge(uint64_t unowned, uint64_t intrusions)
{
	assert_int_equal(verify_ranges(&verify), 0);
	assert_int_equal(verify.found[VERIFY_UNOWNED], unowned);
	assert_int_equal(verify.found[VERIFY_INTRUSION], intrusions);
}

static void a_mapping_made_before_the_copy_is_the_childs_too(void **unused)
{
	(void)unused;
	parent(OTHER, MARK_NS + 10, HL_KIND_mmap, AT);
	child(BEGUN_NS + 10, HL_KIND_munmap, AT);
	judge(0, 0);
}

static void once_given_up_it_is_no_more(void **unused)
{
	(void)unused;
	parent(OTHER, MARK_NS + 10, HL_KIND_mmap, AT);
	child(BEGUN_NS + 10, HL_KIND_munmap, AT);
	child(BEGUN_NS + 20, HL_KIND_munmap, AT);
	judge(1, 0);
}

static void what_is_mapped_after_the_copy_is_the_parents(void **unused)
{
	(void)unused;
	parent(FORKING, MARK_NS + 10, HL_KIND_mmap, AT);
	parent(OTHER, BEGUN_NS + 10, HL_KIND_mmap, AT + PAGE);
	child(BEGUN_NS + 20, HL_KIND_munmap, AT);
	child(BEGUN_NS + 30, HL_KIND_munmap, AT + PAGE);
	child(BEGUN_NS + 40, HL_KIND_munmap, AT + 2 * PAGE);
	judge(3, 0);
}

static void where_one_was_given_up_the_program_may_map(void **unused)
{
	(void)unused;
	parent(OTHER, 10, HL_KIND_mmap, AT);
	parent(OTHER, MARK_NS + 10, HL_KIND_munmap, AT);
	child_unlogged(BEGUN_NS + 10, HL_KIND_mmap, AT);
	judge(0, 0);
}

static void into_what_the_child_has_nobody_may_reach(void **unused)
{
	(void)unused;
	parent(OTHER, 10, HL_KIND_mmap, AT);
	parent(OTHER, MARK_NS + 10, HL_KIND_munmap, AT);
	child(BEGUN_NS + 10, HL_KIND_mmap, AT);
	child_unlogged(BEGUN_NS + 20, HL_KIND_munmap, AT);
	judge(0, 1);
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_mapping_made_before_the_copy_is_the_childs_too),
		TEST(once_given_up_it_is_no_more),
		TEST(what_is_mapped_after_the_copy_is_the_parents),
		TEST(where_one_was_given_up_the_program_may_map),
		TEST(into_what_the_child_has_nobody_may_reach),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
