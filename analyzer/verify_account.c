/* SPDX-License-Identifier: MIT
 *
 * Whether the kernel's side is whole by its own count: on every CPU and for every kind the events
 * and those that were dropped must be as many as there were, and the sequence numbers of a CPU's
 * events must differ and lie below their number. Called by verify.c.
 */
#include "verify.h"

#include "names.h"

#include <errno.h>
#include <stdlib.h>

#define MOST_CPUS 8192 /* no kernel has more */

struct count {
	uint64_t ended;
	uint64_t dropped;
	uint64_t seen;
};

struct cpu {
	bool known; /* session.json has its totals */
	struct count kind[VERIFY_KINDS];
};

static bool read_pair(const json_t *pair, struct count *count)
{
	const json_t *ended = json_array_get(pair, 0), *dropped = json_array_get(pair, 1);

	if (!json_is_integer(ended) || !json_is_integer(dropped))
		return false;
	count->ended = (uint64_t)json_integer_value(ended);
	count->dropped = (uint64_t)json_integer_value(dropped);
	return true;
}

static bool read_cpu(const json_t *object, struct cpu *cpus)
{
	const json_t *number = json_object_get(object, "cpu");
	json_int_t cpu = json_integer_value(number);

	if (!json_is_integer(number) || cpu < 0 || cpu >= MOST_CPUS)
		return false;
	cpus[cpu].known = true;
	for (unsigned i = 0; i < VERIFY_KINDS; i++) {
		const char *name = name_kind(VERIFY_FIRST_SYSCALL + i);
		const json_t *pair = name ? json_object_get(object, name) : NULL;

		if (pair && !read_pair(pair, &cpus[cpu].kind[i]))
			return false;
	}
	return true;
}

static bool read_totals(const struct trace *trace, struct cpu *cpus)
{
	const json_t *totals = json_object_get(json_object_get(trace->session, "kernel"), "totals");
	size_t count = json_array_size(totals);

	for (size_t i = 0; i < count; i++)
		if (!read_cpu(json_array_get(totals, i), cpus))
			return false;
	return count > 0;
}

static int by_sequence(const void *left, const void *right)
{
	const struct verify_call *a = *(struct verify_call *const *)left;
	const struct verify_call *b = *(struct verify_call *const *)right;

	if (a->cpu != b->cpu)
		return a->cpu < b->cpu ? -1 : 1;
	if (a->sequence != b->sequence)
		return a->sequence < b->sequence ? -1 : 1;
	return 0;
}

static uint64_t ended_on(const struct cpu *cpu)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < VERIFY_KINDS; i++)
		sum += cpu->kind[i].ended;
	return sum;
}

static void list(struct verify_call **to, const struct verify_calls *calls)
{
	for (size_t i = 0; i < calls->count; i++)
		to[i] = &calls->call[i];
}

static int check_sequences(struct verify *verify, const struct cpu *cpus)
{
	size_t count = verify->kernel.count + verify->others.count;
	struct verify_call **call = malloc((count + 1) * sizeof(*call));

	if (!call)
		return -ENOMEM;
	list(call, &verify->kernel);
	list(call + verify->kernel.count, &verify->others);
	qsort(call, count, sizeof(*call), by_sequence);
	for (size_t i = 0; i < count; i++) {
		bool twice = i > 0 && !by_sequence(&call[i - 1], &call[i]);
		bool beyond = call[i]->cpu >= MOST_CPUS ||
			      call[i]->sequence >= ended_on(&cpus[call[i]->cpu]);

		verify->account.bad_sequences += twice || beyond;
	}
	free(call);
	return 0;
}

static void count_seen(const struct verify_calls *calls, struct cpu *cpus)
{
	for (size_t i = 0; i < calls->count; i++)
		if (calls->call[i].cpu < MOST_CPUS)
			cpus[calls->call[i].cpu]
				.kind[calls->call[i].kind - VERIFY_FIRST_SYSCALL]
				.seen++;
}

static void add_up(struct verify_account *account, const struct cpu *cpu)
{
	account->cpus += cpu->known;
	for (unsigned i = 0; i < VERIFY_KINDS; i++) {
		const struct count *count = &cpu->kind[i];
		uint64_t told = count->seen + count->dropped;

		account->ended[i] += count->ended;
		account->dropped[i] += count->dropped;
		if (told < count->ended)
			account->fewer += count->ended - told;
		else
			account->more += told - count->ended;
	}
}

int verify_check_account(struct verify *verify)
{
	struct cpu *cpus = calloc(MOST_CPUS, sizeof(*cpus));
	int rc = 0;

	if (!cpus)
		return -ENOMEM;
	verify->account.known = read_totals(verify->trace, cpus);
	if (verify->account.known) {
		count_seen(&verify->kernel, cpus);
		count_seen(&verify->others, cpus);
		for (unsigned i = 0; i < MOST_CPUS; i++)
			add_up(&verify->account, &cpus[i]);
		rc = check_sequences(verify, cpus);
	}
	free(cpus);
	return rc;
}
