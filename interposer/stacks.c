/* SPDX-License-Identifier: MIT
 *
 * See stacks.h.
 */
#include "stacks.h"
#include "attach.h"
#include "modules.h"
#include "unwind.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#define RULE_BITS 14 /* cc1 has 9,000 places */
#define RULES (1u << RULE_BITS)
#define ENTRY_BITS 8
#define OWN_FRAMES 16 /* of ours below the caller: never that many */
/* Words that are read on the way: return addresses, frame pointers, and those of our own frames. */
#define CHECKS(depth) ((depth) + (depth) / 4 + 8)
#define CHECKS_MOST CHECKS(HL_STACK_MOST_FRAMES)
#define SEARCHED 4096 /* stacks of one place in the index, at most */
#define PAGE UINT64_C(4096)
#define STACKS_MIX UINT64_C(0x9e3779b97f4a7c15)

/* This library in memory, by the linker. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

/* The rules found so far, by place. Threads share it without a lock: `mixed` is the place xor the
 * rule, so that an entry of two halves is no entry. */
struct stacks_rule {
	_Atomic uint64_t mixed, rule;
};

struct stacks_check {
	const uint64_t *at;
	uint64_t value;
};

struct stacks_entry {
	uint64_t caller, sp;
	uint64_t fp; /* counts if uses_fp */
	uint64_t result;
	uint32_t count;
	uint32_t uses_fp;
	struct stacks_check check[];
};

/* A frame on the way: the state of the registers in it. */
struct stacks_step {
	uintptr_t pc, sp, fp;
	const uint64_t *fp_at; /* where fp was saved, NULL = still in the register */
	uint32_t exact;        /* pc is where it goes on, not a return address */
	uint32_t check;        /* checks that lead here */
};

/* The last walk of a thread. Another one that comes to the same state in one of its frames, and
 * finds the same words beyond, goes the same way from there. */
struct stacks_trail {
	uint32_t count, checks;
	uint32_t end; /* enum hl_stack_end; 0: not to be followed */
	uint32_t uses_fp;
	struct stacks_step step[HL_STACK_MOST_FRAMES];
	struct stacks_check check[CHECKS_MOST];
};

struct stacks_cache {
	uint32_t generation; /* of the modules; entries of others are void */
	uint32_t newest;     /* trail */
	uintptr_t low, high; /* of this thread's stack, known to be there */
	struct stacks_trail trail[2];
	uint64_t entry[]; /* of stacks_entry_bytes() each */
};

static struct stacks_rule stacks_rules[RULES];
static uint32_t stacks_rules_generation = 1;

/* On its way down a stack. */
struct stacks_walk {
	struct stacks_step now;
	bool uses_fp, overflow;
	uintptr_t low, high;             /* of this stack, known to be there ... */
	uintptr_t known_low, known_high; /* ... and by the cache */
	unsigned depth, count;
	struct stacks_trail *trail;      /* that it leaves, NULL: none */
	const struct stacks_trail *last; /* to follow, NULL: none */
	unsigned last_at;
	uint64_t frame[HL_STACK_MOST_FRAMES];
};

static size_t stacks_checks(unsigned depth)
{
	return CHECKS(depth);
}

static size_t stacks_entry_bytes(unsigned depth)
{
	return sizeof(struct stacks_entry) + stacks_checks(depth) * sizeof(struct stacks_check);
}

size_t stacks_cache_bytes(unsigned depth)
{
	size_t bytes = sizeof(struct stacks_cache) + (stacks_entry_bytes(depth) << ENTRY_BITS);

	return (bytes + PAGE - 1) & ~(PAGE - 1);
}

/* Asks the kernel, by a call that fails in any case; but for NULL, which that takes for none. */
static bool stacks_probe(uintptr_t page)
{
	return page != 0 &&
	       attach_raw(SYS_rt_sigprocmask, ~UINT64_C(0), page, 0, 8, 0, 0) != -EFAULT;
}

/* Whether a word of the stack can be read: what unwind tables say may be wrong. The page that the
 * walk started in is there, and then page by page. */
static bool stacks_readable(struct stacks_walk *walk, uintptr_t at)
{
	uintptr_t page = at & ~(PAGE - 1);

	if (at % sizeof(uint64_t) != 0)
		return false;
	if ((at >= walk->low && at < walk->high) ||
		(at >= walk->known_low && at < walk->known_high))
		return true;
	if (!stacks_probe(page))
		return false;
	if (page != walk->high) {
		walk->low = page; /* a walk never comes back */
		walk->high = page;
	}
	walk->high += PAGE;
	if (walk->high == walk->known_low)
		walk->high = walk->known_high;
	return true;
}

static void stacks_keep(struct stacks_walk *walk, const uint64_t *at, uint64_t value)
{
	struct stacks_trail *trail = walk->trail;

	if (trail == NULL)
		return;
	if (trail->checks == stacks_checks(walk->depth)) {
		walk->overflow = true;
		return;
	}
	trail->check[trail->checks++] = (struct stacks_check){.at = at, .value = value};
}

static bool stacks_read(struct stacks_walk *walk, uintptr_t at, uint64_t *value)
{
	if (!stacks_readable(walk, at))
		return false;
	*value = *(const uint64_t *)at;
	return true;
}

/* The same, of a word that decides where the walk goes. */
static bool stacks_read_kept(struct stacks_walk *walk, uintptr_t at, uint64_t *value)
{
	if (!stacks_read(walk, at, value))
		return false;
	stacks_keep(walk, (const uint64_t *)at, *value);
	return true;
}

static bool stacks_recall(const struct stacks_rule *slot, uintptr_t place, struct unwind_rule *rule)
{
	uint64_t bits = atomic_load_explicit(&slot->rule, memory_order_relaxed);

	static_assert(sizeof(*rule) == sizeof(bits), "a rule is a word");
	memcpy(rule, &bits, sizeof(*rule));
	return (atomic_load_explicit(&slot->mixed, memory_order_relaxed) ^ bits) == place;
}

static void stacks_remember(struct stacks_rule *slot, uint64_t place, uint64_t bits)
{
	atomic_store_explicit(&slot->rule, bits, memory_order_relaxed);
	atomic_store_explicit(&slot->mixed, bits ^ place, memory_order_relaxed);
}

/* A place has two slots; the one that was found last is in the first. */
static struct unwind_rule stacks_rule(uintptr_t place)
{
	size_t hash = place * STACKS_MIX >> (64 - RULE_BITS);
	struct stacks_rule *slot = &stacks_rules[hash], *second = &stacks_rules[hash ^ 1];
	struct unwind_rule rule;
	struct unwind_tables tables;
	uint64_t bits;
	bool known = false;

	if (stacks_recall(slot, place, &rule) || stacks_recall(second, place, &rule))
		return rule;
	rule = (struct unwind_rule){0};
	if (!modules_find(place, &tables, &known))
		return rule;
	rule = unwind_find(&tables, place);
	if (known) {
		bits = atomic_load_explicit(&slot->rule, memory_order_relaxed);
		stacks_remember(second,
			atomic_load_explicit(&slot->mixed, memory_order_relaxed) ^ bits, bits);
		memcpy(&bits, &rule, sizeof(rule));
		stacks_remember(slot, place, bits);
	}
	return rule;
}

/* From here on it matters what the frame pointer is. */
static void stacks_use_fp(struct stacks_walk *walk)
{
	if (walk->now.fp_at == NULL)
		walk->uses_fp = true;
	else
		stacks_keep(walk, walk->now.fp_at, walk->now.fp);
}

/* To the code that a signal interrupted: the kernel's frame is at the stack pointer. */
static bool stacks_step_signal(struct stacks_walk *walk)
{
	const ucontext_t *context = (const ucontext_t *)walk->now.sp;
	uintptr_t at = (uintptr_t)&context->uc_mcontext.gregs[0];
	uint64_t pc, sp, fp;

	if (!stacks_read_kept(walk, at + REG_RIP * 8, &pc) ||
		!stacks_read_kept(walk, at + REG_RSP * 8, &sp) ||
		!stacks_read_kept(walk, at + REG_RBP * 8, &fp))
		return false;
	walk->now.pc = pc;
	walk->now.exact = true;
	walk->now.sp = sp;
	walk->now.fp = fp;
	walk->now.fp_at = (const uint64_t *)(at + REG_RBP * 8);
	return true;
}

static bool stacks_step_fp(struct stacks_walk *walk, const struct unwind_rule *rule, uintptr_t cfa)
{
	uintptr_t at = rule->fp == UNWIND_FP_AT_CFA ? cfa : walk->now.fp;
	uint64_t value;

	if (rule->fp == UNWIND_FP_KEPT)
		return true;
	if (rule->fp == UNWIND_FP_AT_FP)
		stacks_use_fp(walk);
	at += (uintptr_t)(intptr_t)rule->fp_offset;
	if (rule->fp == UNWIND_FP_LOST || !stacks_read(walk, at, &value))
		return false;
	walk->now.fp = value;
	walk->now.fp_at = (const uint64_t *)at;
	return true;
}

/* Goes to the calling frame: 0, or why there is none. */
static enum hl_stack_end stacks_step(struct stacks_walk *walk)
{
	struct unwind_rule rule = stacks_rule(walk->now.pc - (walk->now.exact ? 0 : 1));
	uintptr_t offset = (uintptr_t)(intptr_t)rule.cfa_offset;
	uint64_t cfa = 0, pc;

	switch (rule.cfa) {
	case UNWIND_END:
		return HL_STACK_WHOLE;
	case UNWIND_SIGNAL:
		return stacks_step_signal(walk) ? 0 : HL_STACK_BROKEN;
	case UNWIND_SP:
		cfa = walk->now.sp + offset;
		break;
	case UNWIND_FP:
		stacks_use_fp(walk);
		cfa = walk->now.fp + offset;
		break;
	case UNWIND_FP_WORD:
		stacks_use_fp(walk);
		if (!stacks_read_kept(walk, walk->now.fp + offset, &cfa))
			return HL_STACK_BROKEN;
		break;
	default:
		return HL_STACK_BROKEN;
	}
	if (cfa <= walk->now.sp || !stacks_read_kept(walk, cfa - 8, &pc))
		return HL_STACK_BROKEN;
	if (!stacks_step_fp(walk, &rule, cfa)) {
		walk->now.fp = 0; /* not readable, should it be needed */
		walk->now.fp_at = NULL;
	}
	walk->now.pc = pc;
	walk->now.sp = cfa;
	walk->now.exact = false;
	return pc != 0 ? 0 : HL_STACK_WHOLE;
}

static bool stacks_is_own(uintptr_t pc)
{
	return pc - (uintptr_t)__ehdr_start < (uintptr_t)_end - (uintptr_t)__ehdr_start;
}

static void stacks_put_frame(struct stacks_walk *walk, const struct stacks_step *step)
{
	if (walk->trail != NULL) {
		walk->trail->step[walk->count] = *step;
		walk->trail->step[walk->count].check = walk->trail->checks;
	}
	walk->frame[walk->count++] = step->pc + step->exact;
}

/* Whether the walk is in a frame of the last one, and all words that led on from there are as they
 * were. In their order: each is one that this walk would read, too, so it is there. */
static bool stacks_meets(struct stacks_walk *walk)
{
	const struct stacks_trail *last = walk->last;
	const struct stacks_step *now = &walk->now, *step;

	while (walk->last_at < last->count && last->step[walk->last_at].sp < now->sp)
		walk->last_at++;
	step = &last->step[walk->last_at];
	if (walk->last_at == last->count || step->sp != now->sp || step->pc != now->pc ||
		step->fp != now->fp || step->fp_at != now->fp_at || step->exact != now->exact)
		return false;
	for (unsigned i = step->check; i < last->checks; i++)
		if (*last->check[i].at != last->check[i].value)
			return false;
	return true;
}

/* Takes over the words that the last walk read in `from` to `to`. */
static void stacks_keep_all(struct stacks_walk *walk, unsigned from, unsigned to)
{
	struct stacks_trail *trail = walk->trail;
	unsigned count = to - from;

	if (count > stacks_checks(walk->depth) - trail->checks) {
		count = (unsigned)stacks_checks(walk->depth) - trail->checks;
		walk->overflow = true;
	}
	memcpy(trail->check + trail->checks, walk->last->check + from,
		count * sizeof(*trail->check));
	trail->checks += count;
}

/* Goes where the last walk went, as far as there is room. */
static enum hl_stack_end stacks_follow(struct stacks_walk *walk)
{
	const struct stacks_trail *last = walk->last;
	const struct stacks_step *from = &last->step[walk->last_at];
	struct stacks_step *step = &walk->trail->step[walk->count];
	unsigned count = last->count - walk->last_at, room = walk->depth - walk->count;
	unsigned shift = walk->trail->checks - from->check;
	bool all = count <= room;

	if (!all)
		count = room;
	memcpy(step, from, count * sizeof(*step));
	for (unsigned i = 0; i < count; i++) {
		step[i].check += shift;
		walk->frame[walk->count++] = step[i].pc + step[i].exact;
	}
	walk->uses_fp |= last->uses_fp && walk->now.fp_at == NULL;
	walk->now = step[count - 1];
	stacks_keep_all(walk, from->check, all ? last->checks : from[count - 1].check);
	walk->last = NULL;
	if (walk->count == walk->depth)
		return HL_STACK_CUT;
	return last->end == HL_STACK_CUT ? stacks_step(walk) : last->end;
}

/* All frames from the caller on. */
static enum hl_stack_end stacks_unwind(struct stacks_walk *walk)
{
	enum hl_stack_end end = 0;

	for (unsigned i = 0; i < OWN_FRAMES && end == 0 && stacks_is_own(walk->now.pc); i++)
		end = stacks_step(walk);
	while (end == 0) {
		if (walk->last != NULL && stacks_meets(walk)) {
			end = stacks_follow(walk);
			continue;
		}
		stacks_put_frame(walk, &walk->now);
		end = walk->count < walk->depth ? stacks_step(walk) : HL_STACK_CUT;
	}
	return end;
}

static uint64_t stacks_hash(const struct stacks_walk *walk)
{
	uint64_t hash = walk->count;

	for (unsigned i = 0; i < walk->count; i++)
		hash = ((hash << 5 | hash >> 59) ^ walk->frame[i]) * STACKS_MIX;
	return hash ^ hash >> 32;
}

static struct hl_stack *stacks_at(struct hl_session *session, uint32_t number)
{
	return (struct hl_stack *)((char *)session + session->stacks_offset +
				   (number - 1) * hl_stack_bytes(session->stack_depth));
}

/* A new one, which nobody finds yet; 0 if there is no room. */
static uint32_t stacks_add(
	struct hl_session *session, uint64_t head, const struct stacks_walk *walk)
{
	struct hl_stack *stack;
	uint32_t number = atomic_load_explicit(&session->stack_count, memory_order_relaxed);

	do
		if (number >= atomic_load_explicit(&session->backed_stacks, memory_order_acquire))
			return 0;
	while (!atomic_compare_exchange_weak(&session->stack_count, &number, number + 1));
	stack = stacks_at(session, ++number);
	memcpy(stack->frame, walk->frame, walk->count * sizeof(walk->frame[0]));
	atomic_store_explicit(&stack->head, head, memory_order_release);
	return number;
}

/* They are, nearly always: the heads that have been compared hold a hash. */
static bool same_frames(const struct hl_stack *stack, const struct stacks_walk *walk)
{
	uint64_t difference = 0;

	for (unsigned i = 0; i < walk->count; i++)
		difference |= stack->frame[i] ^ walk->frame[i];
	return difference == 0;
}

/* Looks through a list of stacks from `number` on, up to one that was the newest before. */
static uint32_t stacks_search(struct hl_session *session, uint32_t number, uint32_t before,
	uint64_t head, const struct stacks_walk *walk)
{
	for (unsigned i = 0; i < SEARCHED && number != before; i++) {
		struct hl_stack *stack;

		if (number == 0 || number > session->stack_limit)
			break;
		stack = stacks_at(session, number);
		if (atomic_load_explicit(&stack->head, memory_order_acquire) == head &&
			same_frames(stack, walk))
			return number;
		number = atomic_load_explicit(&stack->below, memory_order_relaxed);
	}
	return 0;
}

/* The number of a stack, which others may look up and add at the same time. One that is added in
 * vain, since another thread was first, is never found. */
static uint32_t stacks_intern(const struct stacks_walk *walk, enum hl_stack_end end)
{
	struct hl_session *session = attached.session;
	uint64_t hash = stacks_hash(walk), head = hl_stack_head(hash, walk->count, end);
	_Atomic uint32_t *newest =
		(_Atomic uint32_t *)((char *)session + session->stack_index_offset) +
		(hash >> (64 - HL_STACK_INDEX_BITS));
	uint32_t seen = atomic_load_explicit(newest, memory_order_acquire), before = 0;
	uint32_t number = stacks_search(session, seen, before, head, walk), added;

	if (number != 0)
		return number;
	added = stacks_add(session, head, walk);
	while (added != 0) {
		atomic_store_explicit(
			&stacks_at(session, added)->below, seen, memory_order_relaxed);
		before = seen;
		if (atomic_compare_exchange_strong(newest, &seen, added))
			return added;
		number = stacks_search(session, seen, before, head, walk);
		if (number != 0)
			return number;
	}
	return 0;
}

static struct stacks_entry *stacks_entry(
	struct stacks_cache *cache, uint64_t caller, uintptr_t sp, unsigned depth)
{
	uint64_t hash = (caller ^ sp << 20) * STACKS_MIX >> (64 - ENTRY_BITS);

	return (struct stacks_entry *)((char *)cache->entry + hash * stacks_entry_bytes(depth));
}

/* In the order of the walk: up to the first difference, these are words that it would read, too, so
 * they are there. */
static bool stacks_unchanged(const struct stacks_entry *entry, uintptr_t fp)
{
	if (entry->uses_fp && entry->fp != fp)
		return false;
	for (uint32_t i = 0; i < entry->count; i++)
		if (*entry->check[i].at != entry->check[i].value)
			return false;
	return true;
}

/* Another object has been found where one was. */
static void stacks_new_generation(struct stacks_cache *cache, uint32_t generation, unsigned depth)
{
	if (stacks_rules_generation != generation) {
		for (unsigned i = 0; i < RULES; i++)
			atomic_store_explicit(&stacks_rules[i].mixed, 0, memory_order_relaxed);
		stacks_rules_generation = generation;
	}
	for (size_t i = 0; cache->generation != 0 && i < 1u << ENTRY_BITS; i++)
		((struct stacks_entry *)((char *)cache->entry + i * stacks_entry_bytes(depth)))
			->sp = 0;
	cache->trail[0].end = cache->trail[1].end = 0;
	cache->generation = generation;
}

static uint64_t stacks_result(
	const struct stacks_walk *walk, enum hl_stack_end end, uint64_t caller)
{
	uint32_t number;

	/* Not even the caller that the call itself knows: nothing else can be right. */
	if (walk->count == 0 || walk->frame[0] != caller)
		return caller;
	number = stacks_intern(walk, end);
	if (number != 0)
		return HL_CALLER_STACK | number;
	atomic_fetch_add_explicit(&attached.session->stacks_dropped, 1, memory_order_relaxed);
	return caller;
}

/* What is known of the stack that the walk begins in. */
static void stacks_begin(struct stacks_walk *walk, struct stacks_cache *cache)
{
	uintptr_t sp = walk->now.sp;

	walk->low = sp & ~(PAGE - 1);
	walk->high = walk->low + PAGE;
	walk->known_low = walk->known_high = 0;
	walk->trail = NULL;
	walk->last = NULL;
	if (cache == NULL)
		return;
	walk->known_low = cache->low;
	walk->known_high = cache->high;
	if (walk->high == cache->low || (sp >= cache->low && sp < cache->high))
		walk->high = cache->high;
	if (sp >= cache->low && sp < cache->high)
		walk->low = cache->low;
	walk->last = &cache->trail[cache->newest];
	if (walk->last->end == 0)
		walk->last = NULL;
	walk->last_at = 0;
	walk->trail = &cache->trail[!cache->newest];
	walk->trail->checks = 0;
	walk->trail->end = 0;
}

static void stacks_learn(struct stacks_cache *cache, struct stacks_entry *entry,
	const struct stacks_step *start, const struct stacks_walk *walk, enum hl_stack_end end)
{
	struct stacks_trail *trail = walk->trail;

	/* What is known is kept if the walk came there without reading all on the way. */
	if (walk->high > cache->low || walk->now.sp < cache->low || walk->now.sp >= cache->high) {
		cache->low = walk->low;
		cache->high = walk->high;
	}
	entry->sp = 0;
	if (walk->overflow)
		return;
	trail->end = end;
	trail->count = walk->count;
	trail->uses_fp = walk->uses_fp;
	cache->newest = !cache->newest;
	entry->sp = start->sp;
	entry->fp = start->fp;
	entry->uses_fp = walk->uses_fp;
	entry->count = trail->checks;
	memcpy(entry->check, trail->check, trail->checks * sizeof(*entry->check));
}

static uint64_t stacks_look(struct stacks_cache *cache, struct stacks_entry *entry, uint64_t caller,
	const struct stacks_step *start)
{
	struct stacks_walk walk;
	enum hl_stack_end end;
	uint64_t result;

	walk.now = *start;
	walk.uses_fp = walk.overflow = false;
	walk.depth = attached.session->stack_depth;
	walk.count = 0;
	stacks_begin(&walk, cache);
	end = stacks_unwind(&walk);
	result = stacks_result(&walk, end, caller);
	if (cache == NULL)
		return result;
	stacks_learn(cache, entry, start, &walk, end);
	entry->caller = caller;
	entry->result = result;
	if (result == caller)
		entry->sp = 0; /* there was no room for it: perhaps next time */
	return result;
}

uint64_t stacks_capture(struct stacks_cache *cache, uint64_t caller)
{
	unsigned depth = attached.session->stack_depth;
	struct stacks_step now = {.exact = 1};
	struct stacks_entry *entry = NULL;
	uint32_t generation;

	__asm__ volatile("lea 0f(%%rip), %0\n0:\tmov %%rsp, %1\n\tmov %%rbp, %2"
			 : "=&r"(now.pc), "=&r"(now.sp), "=&r"(now.fp));
	if (cache != NULL) {
		generation = atomic_load_explicit(&modules_generation, memory_order_relaxed);
		if (__builtin_expect(cache->generation != generation, 0))
			stacks_new_generation(cache, generation, depth);
		entry = stacks_entry(cache, caller, now.sp, depth);
		if (entry->caller == caller && entry->sp == now.sp &&
			stacks_unchanged(entry, now.fp))
			return entry->result;
	}
	return stacks_look(cache, entry, caller, &now);
}
