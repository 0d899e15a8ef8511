/* SPDX-License-Identifier: MIT
 *
 * Follows which memory the log says the heap holds, process by process, and looks for calls that do
 * not fit: logged ones on memory that was never obtained, and others that reach into it. Called by
 * verify.c after verify_match.c.
 *
 * Memory counts as held from the end of the call that obtained it to the beginning of the call that
 * gives it back, so that threads which pass an address to each other never seem to collide.
 *
 * A forked child begins with what its parent held at the fork mark. What other threads of the
 * parent obtained or gave back from there until the child began is in its copy or not: that memory
 * can neither be called unowned nor reached into, until the child itself obtains it or gives it
 * back.
 */
#include "verify.h"

#include <errno.h>
#include <stdlib.h>

/* In the order in which steps of the same instant are taken. */
enum step_kind {
	STEP_USE,
	STEP_RELEASE,
	STEP_OBTAIN,
	STEP_BREAK,
	STEP_BLOCK,
	STEP_REACH,
	STEP_REACHED,
	STEP_LOOK,
	STEP_LOOKED,
	STEP_FORK,
	STEP_BEGUN,
};

struct step {
	uint64_t ns;
	struct range range;
	struct verify_call *call;       /* NULL: STEP_LOOK to STEP_BEGUN */
	const struct verify_fork *fork; /* STEP_FORK, STEP_BEGUN */
	uint32_t stream;
	enum step_kind kind;
};

struct steps {
	struct step *step;
	size_t count;
	size_t capacity;
	bool failed; /* out of memory */
};

/* ---- ranges -------------------------------------------------------------------------------- */

/* The first that ends behind `address`. */
static size_t find(const struct ranges *set, uint64_t address)
{
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->list[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool touches(const struct ranges *set, struct range what)
{
	size_t i = find(set, what.start);

	return what.start < what.end && i < set->count && set->list[i].start < what.end;
}

/* Neighbours may lie in the set as one range or as several. */
static bool holds(const struct ranges *set, struct range what)
{
	for (size_t i = find(set, what.start); what.start < what.end; i++) {
		if (i == set->count || set->list[i].start > what.start)
			return false;
		what.start = set->list[i].end;
	}
	return true;
}

static int add(struct ranges *set, struct range what)
{
	uint64_t changed;

	return ranges_add(set, what.start, what.end, &changed);
}

static int take_away(struct ranges *set, struct range what)
{
	uint64_t changed;

	return ranges_remove(set, what.start, what.end, &changed);
}

/* ---- calls to steps ------------------------------------------------------------------------ */

static struct range span(uint64_t start, uint64_t bytes)
{
	bytes = (bytes + 4095) & ~UINT64_C(4095); /* the kernel rounds lengths up */
	return (struct range){start, start + bytes};
}

static bool has_failed(const struct verify_call *call)
{
	return call->kind != HL_KIND_brk && call->result < 0 && call->result >= -4095;
}

static struct step *add_step(struct steps *steps, enum step_kind kind, uint32_t stream, uint64_t ns)
{
	if (steps->count == steps->capacity) {
		size_t capacity = steps->capacity ? steps->capacity * 2 : 1024;
		struct step *grown = realloc(steps->step, capacity * sizeof(*grown));

		if (!grown) {
			steps->failed = true;
			return NULL;
		}
		steps->step = grown;
		steps->capacity = capacity;
	}
	steps->step[steps->count] = (struct step){.ns = ns, .stream = stream, .kind = kind};
	return &steps->step[steps->count++];
}

static void step_at(struct steps *steps, enum step_kind kind, struct verify_call *call, uint64_t ns,
	struct range range)
{
	struct step *step = add_step(steps, kind, call->stream, ns);

	if (step) {
		step->range = range;
		step->call = call;
	}
}

static void step_obtain(struct steps *steps, struct verify_call *call, struct range range)
{
	step_at(steps, STEP_OBTAIN, call, call->end_ns, range);
}

/* The recorder also acts on memory that it did not obtain, such as its own variables. */
static void step_use(
	struct steps *steps, struct verify_call *call, struct range range, bool release)
{
	if (call->reason != HL_REASON_recorder)
		step_at(steps, STEP_USE, call, call->start_ns, range);
	if (release)
		step_at(steps, STEP_RELEASE, call, call->start_ns, range);
}

static void add_brk(struct steps *steps, struct verify_call *call)
{
	uint64_t before = call->addr, after = (uint64_t)call->result;

	step_at(steps, STEP_BREAK, call, call->end_ns, (struct range){0, 0});
	if (before && after > before)
		step_obtain(steps, call, (struct range){before, after});
	else if (before && after < before)
		step_use(steps, call, (struct range){after, before}, true);
}

static void add_mremap(struct steps *steps, struct verify_call *call)
{
	struct range old = span(call->addr, call->length);
	struct range now = span((uint64_t)call->result, call->argument);

	step_use(steps, call, old, now.start != old.start);
	if (now.start == old.start && now.end < old.end)
		step_at(steps, STEP_RELEASE, call, call->start_ns,
			(struct range){now.end, old.end});
	else
		step_obtain(steps, call, now);
}

static void add_logged(struct steps *steps, struct verify_call *call)
{
	if (has_failed(call))
		return;
	switch (call->kind) {
	case HL_KIND_brk:
		add_brk(steps, call);
		break;
	case HL_KIND_mmap:
		step_obtain(steps, call, span((uint64_t)call->result, call->length));
		break;
	case HL_KIND_munmap:
		step_use(steps, call, span(call->addr, call->length), true);
		break;
	case HL_KIND_mremap:
		add_mremap(steps, call);
		break;
	default: /* madvise, mprotect */
		step_use(steps, call, span(call->addr, call->length), false);
		break;
	}
}

/* A foreign call must touch the heap's memory both when it begins and when it has ended: between
 * the two the kernel may have passed the address from one side to the other. */
static void add_reach(struct steps *steps, struct verify_call *call, struct range range)
{
	step_at(steps, STEP_REACH, call, call->start_ns, range);
	step_at(steps, STEP_REACHED, call, call->end_ns, range);
}

static void add_foreign(struct steps *steps, struct verify_call *call)
{
	/* The addresses of process_madvise are in the program's memory. */
	if (has_failed(call) || call->kind == HL_KIND_process_madvise)
		return;
	if (call->kind == HL_KIND_brk) {
		if ((uint64_t)call->result != call->addr)
			add_reach(steps, call, (struct range){0, 0});
		return;
	}
	if (call->kind != HL_KIND_mmap)
		add_reach(steps, call, span(call->addr, call->length));
	if (call->kind == HL_KIND_mmap)
		add_reach(steps, call, span((uint64_t)call->result, call->length));
	if (call->kind == HL_KIND_mremap && (uint64_t)call->result != call->addr)
		add_reach(steps, call, span((uint64_t)call->result, call->argument));
}

/* ---- whose are the foreign calls ----------------------------------------------------------- */

static int by_image(const void *left, const void *right)
{
	const struct verify_call *a = *(struct verify_call *const *)left;
	const struct verify_call *b = *(struct verify_call *const *)right;

	if (a->pid != b->pid)
		return a->pid < b->pid ? -1 : 1;
	if (a->image != b->image)
		return a->image < b->image ? -1 : 1;
	return 0;
}

/* A process image is one pid between two execs; its paired calls tell its stream. */
static void name_image(struct verify *verify, struct verify_call **call, size_t count)
{
	uint32_t stream = VERIFY_NO_STREAM;

	for (size_t i = 0; i < count && stream == VERIFY_NO_STREAM; i++)
		stream = call[i]->stream;
	for (size_t i = 0; i < count; i++)
		call[i]->stream = stream;
	if (stream == VERIFY_NO_STREAM)
		verify->unlogged += count;
}

static int name_images(struct verify *verify)
{
	size_t count = verify->kernel.count;
	struct verify_call **call = malloc((count + 1) * sizeof(*call));

	if (!call)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		call[i] = &verify->kernel.call[i];
	qsort(call, count, sizeof(*call), by_image);
	for (size_t first = 0, next; first < count; first = next) {
		for (next = first + 1; next < count && !by_image(&call[first], &call[next]); next++)
			;
		name_image(verify, call + first, next - first);
	}
	free(call);
	return 0;
}

/* ---- the walk ------------------------------------------------------------------------------ */

static int by_time(const void *left, const void *right)
{
	const struct step *a = left, *b = right;

	if (a->stream != b->stream)
		return a->stream < b->stream ? -1 : 1;
	if (a->ns != b->ns)
		return a->ns < b->ns ? -1 : 1;
	return (int)a->kind - (int)b->kind;
}

static void step_fork(
	struct steps *steps, enum step_kind kind, const struct verify_fork *fork, uint64_t ns)
{
	struct step *step = add_step(steps, kind, fork->parent, ns);

	if (step)
		step->fork = fork;
}

/* From a little before the process was looked at until a little after. */
static void add_looks(struct verify *verify, struct steps *steps)
{
	for (uint32_t i = 0; verify->looks && i < verify->trace->stream_count; i++) {
		const struct verify_look *look = &verify->looks[i];

		if (!look->there)
			continue;
		add_step(steps, STEP_LOOK, i, look->from_ns - VERIFY_CLOCK_NS);
		add_step(steps, STEP_LOOKED, i, look->to_ns + VERIFY_CLOCK_NS);
	}
}

static void collect_steps(struct verify *verify, struct steps *steps)
{
	for (size_t i = 0; i < verify->logged.count; i++)
		add_logged(steps, &verify->logged.call[i]);
	for (size_t i = 0; i < verify->blocks.count; i++) {
		struct verify_call *call = &verify->blocks.call[i];

		step_at(steps, STEP_BLOCK, call, call->start_ns,
			(struct range){call->addr, call->addr + call->length});
	}
	for (size_t i = 0; i < verify->kernel.count; i++) {
		struct verify_call *call = &verify->kernel.call[i];

		if (!call->matched && call->stream != VERIFY_NO_STREAM)
			add_foreign(steps, call);
	}
	for (size_t i = 0; i < verify->fork_count; i++) {
		const struct verify_fork *fork = &verify->forks[i];

		step_fork(steps, STEP_FORK, fork, fork->ns);
		step_fork(steps, STEP_BEGUN, fork, fork->begun_ns);
	}
	add_looks(verify, steps);
	if (steps->count)
		qsort(steps->step, steps->count, sizeof(*steps->step), by_time);
}

/* A thread that is ended from outside can be inside a call that it has no time to log. */
static bool is_unfinished(const struct verify *verify, const struct verify_call *call)
{
	enum hl_trace_end end = verify->trace->streams[call->stream].info.header.end;

	return call->last && (end == HL_TRACE_END_SIGNAL || call->tid != call->pid);
}

static void judge_foreign(struct verify *verify, struct verify_call *call, enum verify_finding what)
{
	if (is_unfinished(verify, call))
		verify->unfinished++;
	else
		verify_found(verify, what, call);
	call->reached = false; /* a call is judged once */
}

struct walk {
	struct verify *verify;
	struct ranges *held;    /* a set for each stream: filled by its parent's fork */
	struct ranges *perhaps; /* the same: held, or not, as its parent's threads had it */
	const struct verify_fork *
		*forking; /* of the stream under way, whose children have not begun */
	size_t forking_count;
	bool *has_break;
};

static int fork_ranges(struct walk *walk, const struct step *step)
{
	uint32_t child = step->fork->child;
	int rc = ranges_copy(&walk->held[child], &walk->held[step->stream]);

	if (!rc && walk->verify->looks)
		rc = ranges_copy(&walk->verify->looks[child].recorder,
			&walk->verify->looks[step->stream].recorder);
	walk->has_break[child] = walk->has_break[step->stream];
	walk->forking[walk->forking_count++] = step->fork;
	return rc ? rc : ranges_copy(&walk->perhaps[child], &walk->perhaps[step->stream]);
}

static void child_begun(struct walk *walk, const struct verify_fork *fork)
{
	for (size_t i = 0; i < walk->forking_count; i++)
		if (walk->forking[i] == fork)
			walk->forking[i] = walk->forking[--walk->forking_count];
}

static int change_look(struct verify_look *look, const struct step *step)
{
	if (step->kind == STEP_RELEASE)
		return take_away(&look->certain, step->range);
	return step->call->reason == HL_REASON_recorder ? add(&look->recorder, step->range) : 0;
}

/* The memory changed hands: certain from now on, but not for children that are being forked. */
static int change_hands(struct walk *walk, const struct step *step)
{
	struct ranges *held = &walk->held[step->stream];
	int rc = step->kind == STEP_OBTAIN ? add(held, step->range) : take_away(held, step->range);

	if (!rc)
		rc = take_away(&walk->perhaps[step->stream], step->range);
	if (!rc && walk->verify->looks)
		rc = change_look(&walk->verify->looks[step->stream], step);
	for (size_t i = 0; !rc && i < walk->forking_count; i++)
		if (walk->forking[i]->tid != step->call->tid)
			rc = add(&walk->perhaps[walk->forking[i]->child], step->range);
	return rc;
}

static bool may_hold(const struct walk *walk, const struct step *step)
{
	return holds(&walk->held[step->stream], step->range) ||
	       touches(&walk->perhaps[step->stream], step->range);
}

static bool reaches(const struct walk *walk, const struct step *step)
{
	return touches(&walk->held[step->stream], step->range) &&
	       !touches(&walk->perhaps[step->stream], step->range);
}

static int take_all_away(struct ranges *set, const struct ranges *what)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < what->count; i++)
		rc = take_away(set, what->list[i]);
	return rc;
}

static int begin_look(struct walk *walk, uint32_t stream)
{
	struct verify_look *look = &walk->verify->looks[stream];
	int rc = ranges_copy(&look->certain, &walk->held[stream]);

	if (!rc)
		rc = take_all_away(&look->certain, &walk->perhaps[stream]);
	return rc ? rc : take_all_away(&look->certain, &look->recorder);
}

static void end_look(struct walk *walk, uint32_t stream)
{
	struct verify_look *look = &walk->verify->looks[stream];
	struct verify_proc *proc = &walk->verify->proc;

	for (size_t i = 0; i < look->certain.count; i++) {
		if (holds(&look->mapped, look->certain.list[i]))
			continue;
		if (!proc->unmapped++) {
			proc->unmapped_range = look->certain.list[i];
			proc->unmapped_stream = stream;
		}
	}
	proc->held += look->certain.bytes;
	ranges_free(&look->certain);
	ranges_free(&look->mapped);
}

static int take_step(struct walk *walk, const struct step *step)
{
	struct verify_call *call = step->call;

	switch (step->kind) {
	case STEP_USE:
		if (!may_hold(walk, step))
			verify_found(walk->verify, VERIFY_UNOWNED, call);
		return 0;
	case STEP_BLOCK:
		if (!may_hold(walk, step))
			verify_found(walk->verify, VERIFY_UNMAPPED, call);
		return 0;
	case STEP_RELEASE:
	case STEP_OBTAIN:
		return change_hands(walk, step);
	case STEP_BREAK:
		walk->has_break[step->stream] = true;
		return 0;
	case STEP_REACH:
		if (call->kind == HL_KIND_brk ? walk->has_break[step->stream] : reaches(walk, step))
			call->reached = true;
		return 0;
	case STEP_REACHED:
		if (call->kind == HL_KIND_brk && call->reached)
			judge_foreign(walk->verify, call, VERIFY_FOREIGN_BREAK);
		else if (call->reached && reaches(walk, step))
			judge_foreign(walk->verify, call, VERIFY_INTRUSION);
		return 0;
	case STEP_LOOK:
		return begin_look(walk, step->stream);
	case STEP_LOOKED:
		end_look(walk, step->stream);
		return 0;
	case STEP_FORK:
		return fork_ranges(walk, step);
	case STEP_BEGUN:
		child_begun(walk, step->fork);
		return 0;
	}
	return 0;
}

static void free_sets(struct ranges *sets, size_t count)
{
	for (size_t i = 0; sets && i < count; i++)
		ranges_free(&sets[i]);
	free(sets);
}

static int take_steps(struct verify *verify, const struct steps *steps)
{
	size_t streams = verify->trace->stream_count;
	struct walk walk = {
		.verify = verify,
		.held = calloc(streams + 1, sizeof(struct ranges)),
		.perhaps = calloc(streams + 1, sizeof(struct ranges)),
		.forking = calloc(streams + 1, sizeof(const struct verify_fork *)),
		.has_break = calloc(streams + 1, sizeof(bool)),
	};
	int rc = walk.held && walk.perhaps && walk.forking && walk.has_break ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < steps->count; i++) {
		rc = take_step(&walk, &steps->step[i]);
		/* Done with a stream: a build can leave tens of thousands of them. */
		if (i + 1 < steps->count && steps->step[i + 1].stream != steps->step[i].stream) {
			ranges_free(&walk.held[steps->step[i].stream]);
			ranges_free(&walk.perhaps[steps->step[i].stream]);
		}
	}
	free_sets(walk.held, streams);
	free_sets(walk.perhaps, streams);
	free(walk.forking);
	free(walk.has_break);
	return rc;
}

int verify_ranges(struct verify *verify)
{
	struct steps steps = {0};
	int rc = name_images(verify);

	if (!rc) {
		collect_steps(verify, &steps);
		rc = steps.failed ? -ENOMEM : take_steps(verify, &steps);
	}
	free(steps.step);
	return rc;
}
