/* SPDX-License-Identifier: MIT
 *
 * See log.h. A thread has one cursor for each depth of brackets: a signal handler that interrupts a
 * call writes to a page of its own and never disturbs a record that is half made. In the trace each
 * depth is a thread of its own (HL_TID_DEPTH_SHIFT), so the records of each are in order.
 *
 * The hot path is log_enter, log_call, log_leave: a load of the token, two tests for room, one
 * time stamp, four stores and the release of `used`. Everything else is cold.
 */
#include "log.h"
#include "attach.h"

#define LOG_DEPTHS 3
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define cold __attribute__((noinline, cold))

struct log_cursor {
	struct hl_page *page;
	uint32_t used;
	uint32_t limit; /* 0 = no page */
	bool muted;     /* this bracket's records are dropped, so that none is kept by half */
	uint64_t lost;  /* events dropped since the last page */
};

struct log_thread {
	uint32_t tid; /* 0 = not known yet, or a copy of another process's thread */
	bool exited;
	bool forking;
	struct log_cursor cursor[LOG_DEPTHS + 1]; /* the last serves all deeper, has no page */
	uint64_t cause_size[LOG_DEPTHS + 1];
	uint8_t cause_kind[LOG_DEPTHS + 1];
	/* The last fork mark and where it stands: it is the child's when nothing follows. */
	uint64_t fork_id;
	unsigned fork_level;
	struct hl_page *fork_page;
	uint32_t fork_used;
};

static __thread struct log_thread self __attribute__((tls_model("initial-exec")));
__thread uint32_t log_depth __attribute__((tls_model("initial-exec")));
_Atomic bool log_off;

/* Where a call goes on writing that was interrupted by a signal handler which forked: in the child
 * its page is the parent's. As large as all that is written between two tests for room. */
static struct hl_slot nowhere[64];

static inline unsigned log_level(uint32_t depth)
{
	return depth < LOG_DEPTHS ? depth : LOG_DEPTHS;
}

static inline struct hl_slot *log_slot(const struct log_cursor *cursor)
{
	return (struct hl_slot *)cursor->page + 1 + cursor->used;
}

/* Publishes what was written: from here on it survives the process. */
static inline void log_publish(struct log_cursor *cursor, unsigned slots)
{
	cursor->used += slots;
	atomic_store_explicit(&cursor->page->used, cursor->used, memory_order_release);
}

static inline void log_words(
	struct log_cursor *cursor, uint64_t tick, uint64_t kind_addr, uint64_t size, uint64_t chunk)
{
	struct hl_slot *slot = log_slot(cursor);

	slot->word[0] = tick;
	slot->word[1] = kind_addr;
	slot->word[2] = size;
	slot->word[3] = chunk;
}

static void log_mark(struct log_cursor *cursor, enum hl_kind kind, uint64_t size)
{
	log_words(cursor, attach_tick(), hl_kind_addr(kind, 0), size, 0);
	log_publish(cursor, 1);
}

static void log_copy(struct log_cursor *cursor, const void *record, unsigned slots)
{
	struct hl_slot *to = log_slot(cursor);
	const struct hl_slot *from = record;

	for (unsigned i = 0; i < slots; i++)
		to[i] = from[i];
	log_publish(cursor, slots);
}

static void log_give(struct log_cursor *cursor)
{
	struct hl_page *page = cursor->page;

	cursor->page = NULL;
	cursor->used = 0;
	cursor->limit = 0;
	if (page != NULL && page != (struct hl_page *)nowhere)
		attach_give_page(page);
}

/* The first record of a thread, and the recorder's own calls that nobody has logged yet. */
static void log_introduce(struct log_cursor *cursor, struct hl_syscall_record *gettid)
{
	uint32_t count = atomic_exchange(&attached.call_count, 0);

	log_words(cursor, count > 0 ? attached.calls[0].tick : gettid->tick,
		hl_kind_addr(HL_KIND_thread_start, 0), 0, 0);
	log_publish(cursor, 1);
	for (uint32_t i = 0; i < count; i++)
		log_copy(cursor, &attached.calls[i], 3);
	log_copy(cursor, gettid, 3);
}

/* Gives the full page to the collector and takes an empty one. */
static cold bool log_exchange(struct log_thread *thread, unsigned level, bool may_wait)
{
	struct log_cursor *cursor = &thread->cursor[level];
	struct hl_syscall_record gettid;
	bool first = thread->tid == 0;

	log_give(cursor);
	if (level >= LOG_DEPTHS)
		return false;
	if (first)
		thread->tid =
			(uint32_t)attach_call(&gettid, HL_KIND_other, SYS_gettid, 0, 0, 0, 0, 0, 0);
	cursor->page =
		attach_take_page(thread->tid | (uint32_t)level << HL_TID_DEPTH_SHIFT, may_wait);
	if (cursor->page != NULL && cursor->page->serial != attached.serial)
		cursor->page = NULL; /* a handler has forked meanwhile: the parent's */
	if (cursor->page == NULL) {
		if (first)
			thread->tid = 0;
		return false;
	}
	cursor->limit = HL_PAGE_SLOTS;
	if (first)
		log_introduce(cursor, &gettid);
	if (cursor->lost != 0)
		log_mark(cursor, HL_KIND_lost, cursor->lost);
	cursor->lost = 0;
	return true;
}

/* In a new process this thread's pages are the parent's. */
static void log_forget(struct log_thread *thread)
{
	for (unsigned i = 0; i <= LOG_DEPTHS; i++) {
		thread->cursor[i] = (struct log_cursor){0};
		if (i < log_depth)
			thread->cursor[i].page = (struct hl_page *)nowhere;
	}
	thread->tid = 0;
	thread->exited = false;
}

static void log_new_process(struct log_thread *thread)
{
	struct log_cursor *cursor = &thread->cursor[thread->fork_level];
	bool marked = thread->fork_id != 0 && cursor->page == thread->fork_page &&
		      cursor->used == thread->fork_used;
	uint64_t fork_id = marked ? thread->fork_id : 0;

	log_forget(thread);
	thread->fork_id = 0;
	attach_release(); /* of a fork that another thread of the parent made */
	attach_process(fork_id);
}

static inline bool log_is_new_process(void)
{
	return __atomic_load_n(attach_token_real, __ATOMIC_RELAXED) == 0;
}

static cold void log_begin(struct log_thread *thread, unsigned level, bool may_wait)
{
	struct log_cursor *cursor = &thread->cursor[level];

	if (log_is_off()) /* once off, always off, in copies of the process too: guard.h relies on it */
		return;
	if (may_wait && !thread->forking)
		attach_wait_release();
	if (log_is_new_process())
		log_new_process(thread);
	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	/* A signal handler in the middle of registering: there is no stream to write to yet. */
	if (log_is_new_process()) {
		cursor->muted = true;
		return;
	}
	if (cursor->used + LOG_ROOM_SLOTS <= cursor->limit)
		return; /* only held */
	cursor->muted = !log_exchange(thread, level, may_wait);
}

static inline unsigned log_open(enum hl_kind kind, size_t size, bool may_wait)
{
	struct log_thread *thread = &self;
	uint32_t depth = log_depth;
	unsigned level = log_level(depth);
	struct log_cursor *cursor = &thread->cursor[level];

	log_depth = depth + 1;
	/* From here on a signal handler uses the next cursor. */
	atomic_signal_fence(memory_order_seq_cst);
	thread->cause_kind[level] = (uint8_t)kind;
	thread->cause_size[level] = size;
	if (unlikely(__atomic_load_n(attach_token, __ATOMIC_RELAXED) == 0 ||
		     cursor->used + LOG_ROOM_SLOTS > cursor->limit))
		log_begin(thread, level, may_wait);
	return depth;
}

unsigned log_enter(enum hl_kind kind, size_t size)
{
	return log_open(kind, size, true);
}

void log_leave(void)
{
	struct log_thread *thread = &self;

	/* What a thread does after its destructors: nobody would give the page back. */
	if (unlikely(thread->exited))
		log_give(&thread->cursor[log_level(log_depth - 1)]);
	atomic_signal_fence(memory_order_seq_cst);
	log_depth--;
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
	if (kind < HL_KIND_realloc_begin) { /* marks are no events */
		cursor->lost++;
		atomic_fetch_add_explicit(&attached.process->lost, 1, memory_order_relaxed);
	}
	return false;
}

/* The cursor of the bracket under way with room for `slots`, or NULL. */
static inline struct log_cursor *log_room(unsigned slots, enum hl_kind kind)
{
	struct log_thread *thread = &self;
	unsigned level = log_level(log_depth - 1);
	struct log_cursor *cursor = &thread->cursor[level];

	if (likely(cursor->used + slots <= cursor->limit))
		return cursor;
	return log_spill(thread, level, kind) ? cursor : NULL;
}

void log_call(enum hl_kind kind, const void *addr, size_t size, size_t chunk, unsigned flags)
{
	struct log_cursor *cursor;

	if (unlikely(log_depth == 0)) {
		log_enter(0, 0);
		log_call(kind, addr, size, chunk, flags);
		log_leave();
		return;
	}
	cursor = log_room(1, kind);
	if (unlikely(cursor == NULL))
		return;
	log_words(cursor, attach_tick(), hl_kind_addr(kind, (uint64_t)(uintptr_t)addr), size,
		hl_kind_addr(flags, chunk));
	log_publish(cursor, 1);
}

void log_aligned(enum hl_kind kind, const void *addr, size_t size, size_t chunk, unsigned flags,
	size_t alignment)
{
	struct hl_aligned_record record = {
		.call =
			{
				.kind_addr = hl_kind_addr(kind, (uint64_t)(uintptr_t)addr),
				.size = size,
				.chunk = hl_kind_addr(flags, chunk),
			},
		.alignment = alignment};
	struct log_cursor *cursor;

	if (log_depth == 0) {
		log_enter(0, 0);
		log_aligned(kind, addr, size, chunk, flags, alignment);
		log_leave();
		return;
	}
	cursor = log_room(2, kind);
	if (cursor == NULL)
		return;
	record.call.tick = attach_tick();
	log_copy(cursor, &record, 2);
}

uint64_t log_tick(void)
{
	/* Before the first event the clock is not known: attach first. */
	if (unlikely(log_is_new_process())) {
		log_open(0, 0, false);
		log_leave();
	}
	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return 0;
	return attach_tick();
}

void log_syscall(struct hl_syscall_record *record, uint64_t start_tick)
{
	struct log_thread *thread = &self;
	struct log_cursor *cursor;
	uint64_t end;
	unsigned level;

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	end = attach_tick();
	if (log_depth == 0) {
		/* Not within a call (start-up, thread exit), where waiting may be wrong. */
		log_open(0, 0, false);
		log_syscall(record, start_tick);
		log_leave();
		return;
	}
	level = log_level(log_depth - 1);
	record->tick = start_tick;
	record->duration = end - start_tick;
	record->cause_size = thread->cause_size[level];
	record->cause = (record->cause & ~UINT64_C(0xff)) | thread->cause_kind[level];
	cursor = log_room(3, hl_kind_of(record->kind_addr));
	if (cursor != NULL)
		log_copy(cursor, record, 3);
}

bool log_has_room(void)
{
	const struct log_cursor *cursor = &self.cursor[log_level(log_depth - 1)];

	return log_is_off() || cursor->used + LOG_ROOM_SLOTS <= cursor->limit || cursor->muted ||
	       !atomic_load_explicit(&attached.recording, memory_order_relaxed);
}

void log_make_room(void)
{
	if (!log_has_room())
		log_begin(&self, log_level(log_depth - 1), true);
}

void log_thread_exit(void)
{
	struct log_thread *thread = &self;
	uint32_t depth = log_depth;
	struct log_cursor *cursor;

	log_open(0, 0, true);
	cursor = log_room(1, HL_KIND_thread_exit);
	if (cursor != NULL)
		log_mark(cursor, HL_KIND_thread_exit, 0);
	thread->exited = true;
	/* Each page is given back at its own depth, where no handler uses its cursor; a handler
	 * that comes meanwhile gives its page back itself. */
	for (uint32_t level = LOG_DEPTHS; level-- > depth;) {
		log_depth = level + 1;
		atomic_signal_fence(memory_order_seq_cst);
		log_give(&thread->cursor[level]);
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
	struct log_cursor *cursor;
	uint64_t id;

	thread->fork_id = 0;
	log_open(0, 0, false); /* the heap's locks are held: no waiting */
	cursor = log_room(1, HL_KIND_fork);
	if (cursor != NULL) {
		id = (uint64_t)attached.serial << 32 | (atomic_fetch_add(&attached.forks, 1) + 1);
		log_mark(cursor, HL_KIND_fork, id);
		thread->fork_id = id;
		thread->fork_level = (unsigned)(cursor - thread->cursor);
		thread->fork_page = cursor->page;
		thread->fork_used = cursor->used;
	}
	log_leave();
}

void log_fork_child(void)
{
	struct log_thread *thread = &self;

	thread->forking = false;
	/* An allocation by another fork handler may have been first. */
	if (log_is_new_process() && !log_is_off())
		log_new_process(thread);
	attach_release();
}

void log_fork_parent(void)
{
	attach_release();
	self.forking = false;
}

void log_process_exit(void)
{
	struct hl_syscall_record calls[ATTACH_SAMPLE_CALLS];
	struct hl_sample_record sample = {0};
	struct log_cursor *cursor;

	log_enter(0, 0);
	if (atomic_load(&attached.recording) && attach_sample(&sample, calls)) {
		for (unsigned i = 0; i < ATTACH_SAMPLE_CALLS; i++) {
			cursor = log_room(3, HL_KIND_sample); /* no event if it is lost */
			if (cursor != NULL)
				log_copy(cursor, &calls[i], 3);
		}
		cursor = log_room(3, HL_KIND_sample);
		if (cursor != NULL)
			log_copy(cursor, &sample, 3);
	}
	cursor = log_room(1, HL_KIND_exit);
	if (cursor != NULL) {
		log_mark(cursor, HL_KIND_exit, 0);
		attached.process->exited = 1;
	}
	log_leave();
}
