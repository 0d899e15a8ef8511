/* SPDX-License-Identifier: MIT
 *
 * See log.h. A thread has one cursor for each depth of brackets: a signal handler that interrupts a
 * call writes to a page of its own and never disturbs a record that is half made. In the trace each
 * depth is a thread of its own (HL_TID_DEPTH_SHIFT), so the records of each are in order.
 *
 * The hot path is in log_fast.h; all here is for calls that enter the heap, and cold where it is
 * about pages and processes.
 */
#include "log.h"
#include "attach.h"
#include "guard.h"
#include "log_fast.h"
#include "modules.h"
#include "stacks.h"
#include "thread.h"

#include <sys/mman.h>
#include <sys/single_threaded.h>

#define LOG_DEPTHS 3
#define LOG_STAMP_SLOTS 128 /* the time is read again after so many, at the latest ... */
#define LOG_STAMP_ALONE 8   /* ... or so many, where no collector says that time has passed */
#define LOG_STAMP_NS 1000000u
#define LOG_STAMP_TICKS (3 * LOG_STAMP_NS) /* about the same, of the TSC */
#define LOG_SYSCALL_LEAST_NS 100    /* none is shorter, least of all one that is watched ... */
#define LOG_SYSCALL_LEAST_TICKS 200 /* ... at any rate of the TSC */
#define LOG_CALL_SLOTS 5                   /* the most: a tick, three slots, a tick back */
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define cold __attribute__((noinline, cold))

/* The page of depth 0 is log_hot.page, and the ticks of all other depths are exact. */
struct log_cursor {
	struct hl_page *page;
	bool muted;    /* this bracket's records are dropped, so that none is kept by half */
	uint64_t lost; /* events dropped since the last page */
};

struct log_cause {
	uint64_t size;
	uint64_t caller; /* as in the record: with HL_CALLER_STACK once the stack is known */
	enum hl_kind kind;
	uint64_t begun; /* log_call_begin; 0 = not asked for */
};

/* The page of a call that a signal handler has interrupted and forked. The copy goes on with the
 * call, too: its place is private memory there, and what the call writes to it must be written
 * again. */
struct log_stray {
	struct hl_page *page;
	uint32_t used; /* when the fork was marked */
};

/* What log_close_own wants back. */
struct log_bracket {
	struct cache *hot;
	uint32_t depth;
};

struct log_thread {
	uint32_t tid; /* 0 = not known yet, or a copy of another process's thread */
	bool exited;
	bool forking;
	struct log_cursor cursor[LOG_DEPTHS + 1]; /* the last serves all deeper, has no page */
	struct log_cause cause[LOG_DEPTHS + 1];
	struct stacks_cache *stacks; /* for depth 0; NULL until the first one */
	bool stacks_refused;         /* there was no memory for it */
	/* Of this thread's last fork mark; 0 as soon as a record follows it. It is the child's if
	 * none has: the page itself cannot tell, as the parent writes on. While the fork is pending
	 * no record takes the hot path. */
	uint64_t fork_id;
	struct log_stray stray[LOG_DEPTHS];
	uint32_t forks;               /* marks it has made, or is about to ... */
	uint32_t copied;              /* ... when this process was copied from its parent ... */
	uint32_t asked[LOG_DEPTHS + 1]; /* ... and before a system call under way */
	uint64_t stamp_tick;  /* without a collector: when the time was read last, and ... */
	uint32_t stamp_slots; /* ... after how many slots it is read again */
};

/* What a cursor without a page has: nothing is ever written to it. */
static struct hl_page no_page = {.used = HL_PAGE_SLOTS};

static __thread struct log_thread self __attribute__((tls_model("initial-exec")));
__thread struct log_hot log_hot __attribute__((tls_model("initial-exec")));
__thread uint32_t log_depth __attribute__((tls_model("initial-exec")));
_Atomic bool log_off;

static inline unsigned log_level(void)
{
	return log_depth <= LOG_DEPTHS ? log_depth - 1 : LOG_DEPTHS;
}

static inline struct hl_page *log_page(const struct log_thread *thread, unsigned level)
{
	struct hl_page *page = level == 0 ? log_hot.page : thread->cursor[level].page;

	return page != NULL ? page : &no_page;
}

static inline void log_set_page(struct log_thread *thread, unsigned level, struct hl_page *page)
{
	if (level != 0) {
		thread->cursor[level].page = page;
		return;
	}
	log_hot.page = page != NULL ? page : &no_page;
	log_restamp();
}

static inline uint32_t log_used(const struct hl_page *page)
{
	return atomic_load_explicit(&page->used, memory_order_relaxed);
}

static inline bool log_fits(const struct hl_page *page, unsigned slots)
{
	return log_used(page) + slots <= HL_PAGE_SLOTS;
}

/* Publishes what was written: from here on it survives the process. */
static inline void log_publish(struct hl_page *page, unsigned slots)
{
	atomic_store_explicit(&page->used, log_used(page) + slots, memory_order_release);
}

static inline void log_put(struct hl_page *page, unsigned at, uint64_t head, uint64_t word)
{
	struct hl_packed *slot = log_slots(page) + log_used(page) + at;

	slot->word[0] = head;
	slot->word[1] = word;
}

static void log_mark(struct hl_page *page, enum hl_kind kind, uint64_t tick, uint64_t size)
{
	log_put(page, 0, hl_packed_head(kind, 0, 0), tick);
	log_put(page, 1, size, 0);
	log_publish(page, 2);
}

/* A system call, a sample or a phase. */
static void log_timed(struct hl_page *page, const void *record)
{
	const uint64_t *word = record;

	log_put(page, 0, hl_packed_head(hl_kind_of(word[1]), 0, hl_addr_of(word[1])), word[0]);
	for (unsigned i = 1; i < LOG_SYSCALL_SLOTS; i++)
		log_put(page, i, word[2 * i], word[2 * i + 1]);
	log_publish(page, LOG_SYSCALL_SLOTS);
}

static void log_give(struct log_thread *thread, unsigned level)
{
	struct hl_page *page = log_page(thread, level);

	log_set_page(thread, level, NULL);
	if (page != &no_page)
		attach_give_page(page);
}

/* The first record of a thread, and the recorder's own calls that nobody has logged yet. */
static void log_introduce(struct hl_page *page, struct hl_syscall_record *gettid)
{
	uint32_t count = atomic_exchange(&attached.call_count, 0);

	if (count > 0)
		page->tick = attached.calls[0].tick;
	else
		page->tick = gettid->tick;
	log_mark(page, HL_KIND_thread_start, page->tick, 0);
	for (uint32_t i = 0; i < count; i++)
		log_timed(page, &attached.calls[i]);
	log_timed(page, gettid);
	log_restamp();
}

/* Without a collector nobody else puts the ticks on an axis of time. */
static void log_clock(struct hl_page *page)
{
	uint64_t tick = 0, ns = 0;

	alone_read_clocks(&tick, &ns);
	log_mark(page, HL_KIND_clock, tick, ns);
}

static void log_alone(struct hl_page *page, const struct alone_calls *calls, bool first)
{
	if (calls->count > 0 && !first)
		page->tick = calls->call[0].tick;
	for (uint32_t i = 0; i < calls->count; i++)
		log_timed(page, &calls->call[i]);
	if (attached.alone)
		log_clock(page);
}

/* A handler has forked since the process had this serial, and this is the copy: a page that was taken
 * then is the parent's, private memory here (see log_stray), and none taken means nothing. */
static bool log_is_copy(struct log_thread *thread, uint32_t serial)
{
	if (serial == __atomic_load_n(&attached.serial, __ATOMIC_RELAXED))
		return false;
	thread->tid = 0;
	return true;
}

/* Gives the full page to the collector and takes an empty one. */
static cold bool log_exchange(struct log_thread *thread, unsigned level, bool may_wait)
{
	struct log_cursor *cursor = &thread->cursor[level];
	struct hl_syscall_record gettid;
	struct alone_calls calls;
	bool first = thread->tid == 0;
	uint32_t serial = __atomic_load_n(&attached.serial, __ATOMIC_RELAXED);
	struct hl_page *page;

	atomic_signal_fence(memory_order_seq_cst);
	log_give(thread, level);
	if (level >= LOG_DEPTHS)
		return false;
	if (first)
		thread->tid =
			(uint32_t)attach_call(&gettid, HL_KIND_other, SYS_gettid, 0, 0, 0, 0, 0, 0);
	calls.count = 0;
	page = attach_take_page(
		thread->tid | (uint32_t)level << HL_TID_DEPTH_SHIFT, may_wait, &calls);
	if (log_is_copy(thread, serial))
		return log_exchange(thread, level, may_wait);
	if (page == NULL) {
		if (first)
			thread->tid = 0;
		return false;
	}
	if (first)
		log_introduce(page, &gettid);
	log_alone(page, &calls, first);
	if (level < LOG_DEPTHS)
		thread->stray[level].page = NULL; /* it may become any thread's */
	if (cursor->lost != 0)
		log_mark(page, HL_KIND_lost, attach_tick(), cursor->lost);
	cursor->lost = 0;
	log_set_page(thread, level, page);
	atomic_signal_fence(memory_order_seq_cst);
	return !log_is_copy(thread, serial) || log_exchange(thread, level, may_wait);
}

/* In a new process this thread's pages are the parent's. */
static void log_forget(struct log_thread *thread)
{
	for (unsigned i = 0; i <= LOG_DEPTHS; i++) {
		thread->cursor[i] = (struct log_cursor){0};
		log_set_page(thread, i, NULL);
	}
	thread->tid = 0;
	thread->exited = false;
	log_restamp();
}

static void log_new_process(struct log_thread *thread, bool interrupted)
{
	uint64_t fork_id = thread->fork_id;

	log_forget(thread);
	thread->fork_id = 0;
	thread->copied = thread->forks;
	attach_release(); /* of a fork that another thread of the parent made */
	attach_process(fork_id, interrupted);
	if (!interrupted || !atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	for (unsigned i = 0; i < LOG_DEPTHS; i++)
		if (thread->stray[i].page != NULL)
			atomic_store_explicit(&thread->stray[i].page->used, thread->stray[i].used,
				memory_order_relaxed);
}

/* Whether the record just written to this page was there already when a handler forked. */
static bool log_was_before_fork(const struct hl_page *page)
{
	for (unsigned i = 0; i < LOG_DEPTHS; i++)
		if (self.stray[i].page == page)
			return log_used(page) == self.stray[i].used;
	return false;
}

static inline bool log_is_new_process(void)
{
	return __atomic_load_n(attach_token_real, __ATOMIC_RELAXED) == 0;
}

/* A thread alone reads the time so often that at the pace it had about 1 ms passes in between. */
static uint32_t log_stamp_slots(struct log_thread *thread)
{
	uint64_t now, passed;

	if (!attached.alone)
		return LOG_STAMP_SLOTS;
	now = attach_tick();
	passed = now - thread->stamp_tick;
	thread->stamp_tick = now;
	if (passed > (attached.tsc ? LOG_STAMP_TICKS : LOG_STAMP_NS))
		thread->stamp_slots /= 4;
	else if (thread->stamp_slots < LOG_STAMP_ALONE)
		thread->stamp_slots *= 2;
	if (thread->stamp_slots == 0)
		thread->stamp_slots = 1;
	return thread->stamp_slots;
}

/* The time is about to be read. While a fork is pending, it is to be read again each time. */
static void log_stamped(const struct hl_page *page)
{
	uint32_t token = __atomic_load_n(attach_token, __ATOMIC_RELAXED);
	uint32_t next = log_used(page) + log_stamp_slots(&self);

	if (log_depth == 1) {
		log_hot.limit = next < HL_PAGE_SLOTS - 1 ? next : HL_PAGE_SLOTS - 1;
		log_hot.taken_limit = attached.session->stack_depth == 0 ? log_hot.limit : 0;
	}
	/* Nothing else will see that it has changed: a segment may have gone within this call. */
	if (token != log_hot.token)
		log_hot.home_bytes = 0;
	log_hot.token = token != 0 ? token : UINT32_MAX;
	log_hot.round = atomic_load_explicit(attach_round, memory_order_relaxed);
	/* The collector keeps its rounds short for those who look at them. */
	if (atomic_load_explicit(&attached.session->stamped, memory_order_relaxed) == 0)
		atomic_store_explicit(&attached.session->stamped, 1, memory_order_relaxed);
}

static inline bool log_is_stale(const struct hl_page *page)
{
	return log_used(page) >= log_hot.limit ||
	       log_hot.token != __atomic_load_n(attach_token, __ATOMIC_RELAXED) ||
	       log_hot.round != atomic_load_explicit(attach_round, memory_order_relaxed);
}

void log_restamp(void)
{
	log_hot.limit = 0;
	log_hot.taken_limit = 0;
}

void log_restamp_all(void)
{
	attach_change_token();
}

/* Another thread forks, this is a new process, or home ranges may have changed. */
static void log_new_token(struct log_thread *thread, bool may_wait)
{
	uint32_t token = __atomic_load_n(attach_token, __ATOMIC_RELAXED);

	if (token != 0 && token == log_hot.token)
		return;
	log_hot.home_bytes = 0;
	if (may_wait && !thread->forking)
		attach_wait_release();
	if (log_is_new_process())
		log_new_process(thread, log_depth > 1);
}

static cold void log_begin(struct log_thread *thread, unsigned level, bool may_wait)
{
	struct log_cursor *cursor = &thread->cursor[level];

	if (log_is_off()) /* once off, always off, in copies of the process too: guard.h relies on
			     it */
		return;
	if (log_hot.page == NULL)
		log_hot.page = &no_page;
	log_new_token(thread, may_wait);
	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	/* A signal handler in the middle of registering: there is no stream to write to yet. */
	if (log_is_new_process()) {
		cursor->muted = true;
		return;
	}
	cursor->muted = false;
	if (!log_fits(log_page(thread, level), LOG_ROOM_SLOTS))
		cursor->muted = !log_exchange(thread, level, may_wait);
}

/* What caused the records is written member by member: copied from a struct in one piece it would
 * wait for the stores that made it. */
static inline void log_open(enum hl_kind kind, size_t size, const void *caller, bool may_wait)
{
	struct log_thread *thread = &self;
	unsigned level = log_level();
	struct log_cause *cause = &thread->cause[level];
	uint32_t token = __atomic_load_n(attach_token, __ATOMIC_RELAXED);

	cause->kind = kind;
	cause->size = size;
	cause->caller = (uintptr_t)caller & HL_PACKED_ADDRESS_MASK;
	cause->begun = 0;
	if (unlikely(token == 0 || token != log_hot.token ||
		     !log_fits(log_page(thread, level), LOG_ROOM_SLOTS)))
		log_begin(thread, level, may_wait);
}

void log_enter(enum hl_kind kind, size_t size, const void *caller)
{
	log_open(kind, size, caller, true);
}

void log_leave(void)
{
	struct log_thread *thread = &self;

	/* What a thread does after its destructors: nobody would give the page back. */
	if (unlikely(thread->exited))
		log_give(thread, log_level());
	/* What the interrupted call takes may have been freed by the handler. */
	if (log_depth > 1)
		log_restamp();
}

/* A bracket for records that are of no call: start-up, thread exit, fork. As in one of a call, the
 * cache is away, or a handler would write to the same page by the hot path. */
static struct log_bracket log_open_own(bool may_wait)
{
	struct log_bracket before = {thread_self.hot, log_depth};
	uint32_t depth = guard_depth();

	thread_self.hot = NULL;
	log_depth = depth + 1;
	/* From here on a signal handler uses the next cursor. */
	atomic_signal_fence(memory_order_seq_cst);
	log_open(0, 0, NULL, may_wait);
	return before;
}

static void log_close_own(struct log_bracket before)
{
	log_leave();
	atomic_signal_fence(memory_order_seq_cst);
	thread_self.hot = before.hot;
	log_depth = before.depth;
}

/* No room where log_enter left some: the call needed more, or its records are dropped. */
static cold bool log_spill(struct log_thread *thread, unsigned level, enum hl_kind kind)
{
	struct log_cursor *cursor = &thread->cursor[level];

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return false;
	if (!cursor->muted && log_exchange(thread, level, false))
		return true;
	cursor->muted = true;
	/* Marks are no events, but what follows would be counted as of another phase. */
	if (kind < HL_KIND_realloc_begin || kind == HL_KIND_phase) {
		cursor->lost++;
		atomic_fetch_add_explicit(&attached.process->lost, 1, memory_order_relaxed);
	}
	return false;
}

/* The page of the bracket under way with room for `slots`, or NULL. */
static inline struct hl_page *log_room(unsigned slots, enum hl_kind kind)
{
	struct log_thread *thread = &self;
	unsigned level = log_level();
	struct hl_page *page = log_page(thread, level);

	if (likely(log_fits(page, slots)))
		return page;
	return log_spill(thread, level, kind) ? log_page(thread, level) : NULL;
}

/* Of our own calls, as many as there is room for. */
static void log_calls(const struct hl_syscall_record *calls, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct hl_page *page = log_room(LOG_SYSCALL_SLOTS, HL_KIND_sample);

		if (page != NULL) /* else it is no event that is lost */
			log_timed(page, &calls[i]);
	}
}

cold void *log_borrow(size_t bytes)
{
	struct hl_syscall_record call;
	int64_t map = attach_call(&call, HL_KIND_mmap, SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0);

	log_calls(&call, 1);
	return map < 0 && map > -4096 ? NULL : (void *)map;
}

cold void log_give_back(void *memory, size_t bytes)
{
	struct hl_syscall_record call;

	attach_call(&call, HL_KIND_munmap, SYS_munmap, (uint64_t)(uintptr_t)memory, bytes, 0, 0, 0,
		0);
	log_calls(&call, 1);
}

/* A thread's cache of stacks is a mapping of its own, made when it has its first one. */
static cold struct stacks_cache *log_make_stacks(struct log_thread *thread)
{
	if (thread->exited || thread->stacks_refused)
		return NULL;
	thread->stacks = log_borrow(stacks_cache_bytes(attached.session->stack_depth));
	thread->stacks_refused = thread->stacks == NULL;
	return thread->stacks;
}

static void log_drop_stacks(struct log_thread *thread)
{
	struct stacks_cache *cache = thread->stacks;

	if (cache == NULL)
		return;
	thread->stacks = NULL;
	log_give_back(cache, stacks_cache_bytes(attached.session->stack_depth));
}

static cold void log_find_stack(struct log_thread *thread, unsigned level)
{
	struct log_cause *cause = &thread->cause[level];
	struct stacks_cache *cache = NULL;
	uint32_t noted;

	if (level == 0)
		cache = thread->stacks != NULL ? thread->stacks : log_make_stacks(thread);
	noted = atomic_load_explicit(&modules_noted, memory_order_relaxed);
	cause->caller = stacks_capture(cache, cause->caller);
	if (noted != atomic_load_explicit(&modules_noted, memory_order_relaxed))
		log_restamp();
}

/* The caller of the call under way, and what called that if it is wanted. */
static inline uint64_t log_caller(unsigned level, bool stack)
{
	struct log_cause *cause = &self.cause[level];

	if (unlikely(stack && attached.session->stack_depth != 0 && cause->caller != 0 &&
		     !(cause->caller & HL_CALLER_STACK)))
		log_find_stack(&self, level);
	return cause->caller;
}

/* Frees and what a realloc gives back need none; if they make system calls, those have it. */
static inline bool log_wants_stack(enum hl_kind kind)
{
	return kind < HL_KIND_free || kind == HL_KIND_malloc_trim || kind == HL_KIND_mallopt;
}

/* Whether the time must be read for this record. A thread that has read it since others could have
 * had the block need not: nobody else is there, or the block never left it. */
static inline bool log_wants_tick(const struct log_call *call, const struct hl_page *page)
{
	return log_depth > 1 || log_is_stale(page) || (call->handed && !__libc_single_threaded);
}

static inline bool log_is_compact(const struct log_call *call, unsigned *extra)
{
	bool allocated = call->kind < HL_KIND_free && call->addr != NULL;
	size_t beyond = call->chunk - (allocated ? hl_packed_chunk(call->size) : 0);

	*extra = (unsigned)(beyond / HL_PACKED_EXTRA_BYTES);
	return call->flags == 0 && call->alignment == 0 && call->size < HL_PACKED_SIZE_LIMIT &&
	       beyond % HL_PACKED_EXTRA_BYTES == 0 &&
	       beyond < (allocated ? HL_PACKED_WIDE * HL_PACKED_EXTRA_BYTES : 1);
}

static unsigned log_put_call(
	struct hl_page *page, unsigned at, const struct log_call *call, uint64_t from)
{
	uint64_t addr = (uintptr_t)call->addr;
	unsigned extra;

	if (likely(log_is_compact(call, &extra))) {
		log_put(page, at, hl_packed_head(call->kind, extra, addr),
			(uint64_t)call->size << HL_PACKED_ADDRESS_BITS | from);
		return at + 1;
	}
	log_put(page, at, hl_packed_head(call->kind, HL_PACKED_WIDE, addr), from);
	log_put(page, at + 1, call->size, hl_kind_addr(call->flags, call->chunk));
	log_put(page, at + 2, call->alignment, 0);
	return at + 3;
}

/* A fork by another thread may have come between the test of the token and the record. */
static cold void log_tick_back(struct hl_page *page)
{
	uint64_t tick = attach_tick();

	atomic_signal_fence(memory_order_seq_cst);
	if (log_is_new_process() || !log_fits(page, 1) || log_was_before_fork(page))
		return;
	log_put(page, 0, hl_packed_head(HL_PACKED_TICK_BACK, 0, 0), tick);
	log_publish(page, 1);
}

bool log_token_changed(struct hl_page *page, unsigned level)
{
	if (log_was_before_fork(page))
		return true;
	if (page != log_page(&self, level))
		return false; /* the parent's */
	log_tick_back(page);
	return true;
}

static void log_write_call(const struct log_call *call)
{
	uint64_t caller = 0;
	struct hl_page *page;
	uint32_t token;
	unsigned slots = 0;

	if (atomic_load_explicit(&attached.recording, memory_order_relaxed))
		caller = log_caller(log_level(), log_wants_stack(call->kind));
	page = log_room(LOG_CALL_SLOTS, call->kind);
	token = log_hot.token;
	self.fork_id = 0;
	if (unlikely(page == NULL))
		return;
	log_prefetch(log_slots(page) + atomic_load_explicit(&page->used, memory_order_relaxed));
	if (log_wants_tick(call, page)) {
		log_stamped(page);
		token = log_hot.token;
		log_put(page, 0, hl_packed_head(HL_PACKED_TICK, 0, 0), attach_tick());
		slots = 1;
	}
	slots = log_put_call(page, slots, call, caller);
	log_publish(page, slots);
	if (unlikely((page != log_page(&self, log_level()) ||
			     __atomic_load_n(attach_token, __ATOMIC_RELAXED) != token) &&
		     !log_token_changed(page, log_level())))
		log_write_call(call);
}

void log_call(const struct log_call *call)
{
	struct log_bracket before;

	if (likely(log_depth != 0)) {
		log_write_call(call);
		return;
	}
	before = log_open_own(true);
	log_write_call(call);
	log_close_own(before);
}

uint64_t log_tick(void)
{
	uint32_t *forks = &self.asked[log_depth != 0 ? log_level() : 0];
	uint64_t tick;

	/* Before the first event the clock is not known: attach first. */
	if (unlikely(log_is_new_process())) {
		log_close_own(log_open_own(false));
	}
	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return 0;
	do {
		*forks = self.forks;
		atomic_signal_fence(memory_order_seq_cst);
		tick = attach_tick();
		atomic_signal_fence(memory_order_seq_cst);
	} while (*forks != self.forks); /* a handler's mark must not be later than the tick */
	return tick;
}

static void log_write_syscall(struct hl_syscall_record *record)
{
	const struct log_cause *cause = &self.cause[log_level()];
	struct hl_page *page;

	self.fork_id = 0;
	record->cause_size = cause->size;
	record->cause = (record->cause & ~UINT64_C(0xff)) | (uint8_t)cause->kind;
	record->caller = log_caller(log_level(), true);
	page = log_room(LOG_SYSCALL_SLOTS, hl_kind_of(record->kind_addr));
	/* A handler has forked while it was under way: the parent has it, before the mark. */
	if (page == NULL || self.asked[log_level()] < self.copied)
		return;
	if (log_used(page) == 0 && record->tick < page->tick)
		page->tick = record->tick; /* it was taken for this record */
	log_timed(page, record);
}

void log_syscall(struct hl_syscall_record *record, uint64_t start_tick)
{
	struct log_bracket before;
	uint64_t end;

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	end = attach_tick();
	record->tick = start_tick;
	record->duration = end - start_tick;
	if (log_depth != 0) {
		log_write_syscall(record);
		return;
	}
	/* Not within a call (start-up, thread exit), where waiting may be wrong. */
	before = log_open_own(false);
	log_write_syscall(record);
	log_close_own(before);
}

void log_call_begin(void)
{
	if (!log_is_off() && attached.session->time_calls != 0)
		self.cause[log_level()].begun = attach_tick();
}

/* A handler may have forked meanwhile, and the page be younger than the call. */
void log_call_end(void)
{
	uint64_t begun = self.cause[log_level()].begun, passed;
	struct hl_syscall_record record = {
		.tick = begun,
		.kind_addr = hl_kind_addr(HL_KIND_other, 0),
		.cause = hl_cause_pack(0, HL_REASON_observed, HL_REGION_none, 0),
	};

	if (begun == 0 || log_is_off())
		return;
	passed = attach_tick() - begun;
	if (passed < (attached.tsc ? LOG_SYSCALL_LEAST_TICKS : LOG_SYSCALL_LEAST_NS) ||
		begun < log_page(&self, log_level())->tick)
		return;
	record.duration = passed;
	log_write_syscall(&record);
}

void log_phase(const char *name)
{
	struct hl_phase_record record = {.kind_addr = hl_kind_addr(HL_KIND_phase, 0)};
	struct hl_page *page;

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	hl_phase_name(&record, name);
	self.fork_id = 0;
	page = log_room(LOG_SYSCALL_SLOTS, HL_KIND_phase);
	if (page == NULL)
		return;
	record.tick = attach_tick();
	log_timed(page, &record);
	log_restamp_all();
}

static bool log_note(
	enum hl_kind kind, uint64_t tick, uint64_t addr, uint64_t size, uint64_t chunk)
{
	struct hl_page *page;

	log_make_room();
	page = log_room(2, kind);
	if (page == NULL)
		return false;
	if (log_used(page) == 0 && tick < page->tick)
		page->tick = tick; /* it was taken for this record */
	log_put(page, 0, hl_packed_head(kind, 0, addr), tick);
	log_put(page, 1, size, chunk);
	log_publish(page, 2);
	return true;
}

bool log_kept(uint64_t tick, uint64_t block, uint64_t bytes, uint64_t chunk)
{
	return log_note(HL_KIND_kept, tick, block, bytes, chunk);
}

uint64_t log_thread(void)
{
	return self.tid != 0 ? (uint64_t)attached.serial << 32 | self.tid : 0;
}

static bool log_runs(const struct attach_pages *pages, unsigned piece)
{
	for (uint64_t i = 0; i < pages->piece[piece].count; i++) {
		const struct hl_pagemap_region *run = &pages->piece[piece].run[i];

		if (!log_note(HL_KIND_resident_run, pages->tick, run->start,
			    run->end - run->start, hl_pagemap_flags(run->categories)))
			return false;
	}
	return true;
}

static bool log_notes_modules(void)
{
	return atomic_load_explicit(&attached.recording, memory_order_relaxed) &&
	       attached.session->stack_depth == 0 && attached.session->module_limit != 0;
}

void log_process_start(void)
{
	if (!log_is_off() && log_notes_modules())
		modules_started();
}

/* Which pages are in memory; the kernel tells it at once for the whole process. */
static void log_pages(void)
{
	struct attach_pages pages;
	uint64_t count;

	attach_pages(&pages);
	log_calls(pages.call, pages.calls);
	count = pages.piece[0].count + pages.piece[1].count;
	if (count != 0 &&
		log_note(HL_KIND_resident_begin, pages.tick,
			HL_RESIDENT_end | (pages.cut ? HL_RESIDENT_CUT : 0), pages.took, count) &&
		log_runs(&pages, 0))
		log_runs(&pages, 1);
	log_calls(pages.call, attach_pages_done(&pages));
}

bool log_has_room(void)
{
	unsigned level = log_depth != 0 ? log_level() : 0;

	return log_is_off() || log_fits(log_page(&self, level), LOG_ROOM_SLOTS) ||
	       self.cursor[level].muted ||
	       !atomic_load_explicit(&attached.recording, memory_order_relaxed);
}

void log_make_room(void)
{
	if (!log_has_room())
		log_begin(&self, log_level(), true);
}

void log_thread_exit(void)
{
	struct log_thread *thread = &self;
	uint32_t depth = log_depth;
	struct hl_page *page;

	log_open_own(true);
	if (atomic_load_explicit(&attached.recording, memory_order_relaxed))
		log_drop_stacks(thread);
	page = log_room(2, HL_KIND_thread_exit);
	if (page != NULL)
		log_mark(page, HL_KIND_thread_exit, attach_tick(), 0);
	thread->exited = true;
	/* Each page is given back at its own depth, where no handler uses its cursor; a handler
	 * that comes meanwhile gives its page back itself. */
	for (uint32_t level = LOG_DEPTHS; level-- > depth;) {
		log_depth = level + 1;
		atomic_signal_fence(memory_order_seq_cst);
		log_give(thread, level);
		atomic_signal_fence(memory_order_seq_cst);
	}
	log_depth = depth;
}

void log_fork_hold(void)
{
	self.forking = true;
	attach_hold();
}

void log_fork_prepare(void)
{
	struct log_thread *thread = &self;
	struct hl_page *page;
	struct log_bracket before;
	uint64_t id;

	thread->fork_id = 0;
	thread->forks++;
	before = log_open_own(false); /* the heap's locks are held: no waiting */
	for (unsigned i = 0; i < LOG_DEPTHS; i++) {
		page = i < log_level() ? log_page(thread, i) : &no_page;
		thread->stray[i].page = page != &no_page ? page : NULL;
		thread->stray[i].used = log_used(page);
	}
	page = log_room(2, HL_KIND_fork);
	if (page != NULL) {
		id = (uint64_t)attached.serial << 32 | (atomic_fetch_add(&attached.forks, 1) + 1);
		log_mark(page, HL_KIND_fork, attach_tick(), id);
		thread->fork_id = id;
	}
	log_close_own(before);
}

void log_fork_child(bool interrupted)
{
	struct log_thread *thread = &self;

	thread->forking = false;
	/* An allocation by another fork handler may have been first. */
	if (log_is_new_process() && !log_is_off())
		log_new_process(thread, interrupted);
	attach_release();
}

/* What this thread and others do from here on did not happen before the copy. */
void log_fork_parent(void)
{
	if (atomic_load_explicit(&attached.recording, memory_order_relaxed))
		log_restamp_all();
	attach_release();
	self.forking = false;
}

void log_process_exit(void)
{
	struct hl_syscall_record calls[ATTACH_SAMPLE_CALLS];
	struct hl_sample_record sample = {0};
	struct hl_page *page;
	struct log_bracket before;

	before = log_open_own(true);
	if (log_notes_modules())
		modules_ended();
	if (atomic_load(&attached.recording) && attached.session->pages_at_exit != 0)
		log_pages();
	if (atomic_load(&attached.recording) && attach_sample(&sample, calls)) {
		log_calls(calls, ATTACH_SAMPLE_CALLS);
		page = log_room(LOG_SYSCALL_SLOTS, HL_KIND_sample);
		if (page != NULL)
			log_timed(page, &sample);
	}
	page = log_room(4, HL_KIND_exit);
	if (page != NULL) {
		if (attached.alone)
			log_clock(page);
		log_mark(page, HL_KIND_exit, attach_tick(), 0);
		attached.process->exited = 1;
	}
	log_close_own(before);
}
