/* SPDX-License-Identifier: MIT
 *
 * See images.h. An image that registers does so between its exec and the next one of its process. A
 * pid that is used again is no trouble: what a fork began has a parent in the recording, and is
 * another image's copy.
 */
#include "images.h"
#include "escape.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_TOLD 5

/* What has begun under a pid, and by whose word. The kernel's comes first where they are equal. */
struct beginning {
	uint64_t ns;
	pid_t pid;
	const char *name; /* NULL: a stream began */
};

struct name {
	const char *name;
	uint64_t images;
};

static int by_time(const void *left, const void *right)
{
	const struct beginning *a = left, *b = right;

	if (a->pid != b->pid)
		return a->pid < b->pid ? -1 : 1;
	if (a->ns != b->ns)
		return a->ns < b->ns ? -1 : 1;
	return (a->name == NULL) - (b->name == NULL);
}

static int by_name(const void *left, const void *right)
{
	return strcmp(((const struct name *)left)->name, ((const struct name *)right)->name);
}

static int by_images(const void *left, const void *right)
{
	const struct name *a = left, *b = right;

	return a->images != b->images ? (a->images > b->images ? -1 : 1) : by_name(left, right);
}

/* Measured over the whole recording, so that it holds at its end as well. */
static double ns_a_tick(const struct session *session)
{
	uint64_t ticks = session_tick(session) - session->tick;

	return ticks == 0 ? 0 : (double)(session_monotonic() - session->clock_ns) / (double)ticks;
}

/* NULL without memory, or when a process is one that the kernel numbers otherwise. */
static struct beginning *collect(
	const struct kernel *kernel, const struct processes *all, size_t *count)
{
	const struct probe_account *account = &kernel->account;
	double scale = ns_a_tick(all->session);
	struct beginning *list = calloc(account->image_count + all->by_serial_size, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; list != NULL && i < account->image_count; i++)
		list[n++] = (struct beginning){
			account->images[i].ns, account->images[i].pid, account->images[i].name};
	for (uint32_t i = 0; list != NULL && i < all->by_serial_size; i++) {
		const struct process *process = all->by_serial[i];

		if (process == NULL || process->header.parent_serial != 0)
			continue;
		if (process->hidden) {
			free(list);
			return NULL;
		}
		list[n++] = (struct beginning){
			.ns = all->session->clock_ns +
			      (uint64_t)((double)(process->header.start_tick - all->session->tick) *
					 scale),
			.pid = process->pid,
		};
	}
	if (list != NULL)
		qsort(list, n, sizeof(*list), by_time);
	*count = n;
	return list;
}

/* Each name once, the most frequent ones first; returns how many there are. */
static size_t merge(struct name *names, size_t found)
{
	size_t different = 0;

	qsort(names, found, sizeof(*names), by_name);
	for (size_t i = 0; i < found; i++) {
		if (different > 0 && strcmp(names[different - 1].name, names[i].name) == 0)
			names[different - 1].images++;
		else
			names[different++] = names[i];
	}
	qsort(names, different, sizeof(*names), by_images);
	return different;
}

/* Those that no stream follows; returns how many there are. */
static size_t find(const struct beginning *list, size_t count, struct name *names)
{
	size_t found = 0;

	for (size_t i = 0; i < count; i++) {
		bool has_next = i + 1 < count && list[i + 1].pid == list[i].pid;

		if (list[i].name != NULL && (!has_next || list[i + 1].name != NULL))
			names[found++] = (struct name){list[i].name, 1};
	}
	return found;
}

/* After the `at` bytes of a sentence that is there. */
static void tell(char *text, size_t bytes, size_t at, struct name *names, size_t found)
{
	size_t count = merge(names, found);

	for (size_t i = 0; i < count && i < NAMES_TOLD && at < bytes; i++) {
		char name[80], times[32] = "";

		escape_copy(name, sizeof(name), names[i].name, strlen(names[i].name));
		if (names[i].images > 1)
			snprintf(times, sizeof(times), " (%" PRIu64 ")", names[i].images);
		at += (size_t)snprintf(text + at, bytes - at, "%s %s%s", i == 0 ? "" : ",", name, times);
	}
	if (count > NAMES_TOLD && at < bytes)
		snprintf(text + at, bytes - at, " and %zu other names", count - NAMES_TOLD);
}

bool images_tell_unrecorded(
	char *text, size_t bytes, const struct kernel *kernel, const struct processes *all)
{
	size_t count = 0, found = 0, at;
	struct beginning *list = NULL;
	struct name *names = NULL;

	if (!kernel->recorded || kernel->account.image_count == 0)
		return false;
	list = collect(kernel, all, &count);
	names = calloc(count + 1, sizeof(*names));
	if (list != NULL && names != NULL)
		found = find(list, count, names);
	if (found > 0) {
		at = (size_t)snprintf(text, bytes,
			"%zu program image%s ran unrecorded, static or set-user-ID perhaps:", found,
			found == 1 ? "" : "s");
		tell(text, bytes, at, names, found);
	}
	free(list);
	free(names);
	return found > 0;
}

static const char *program_of(const struct process *process)
{
	const char *name = tool_base_name(process->command);

	return name[0] != '\0' ? name : "unknown";
}

static bool claims(const struct process *process)
{
	return (process->header.flags & HL_TRACE_ELSEWHERE) != 0;
}

/* A forked copy has its parent's malloc, and may have called none itself. */
static bool is_elsewhere(const struct processes *all, const struct process *process)
{
	while (process != NULL && claims(process) && process->header.parent_serial != 0)
		process = processes_by_serial(all, process->header.parent_serial);
	return process == NULL || claims(process);
}

bool images_tell_elsewhere(char *text, size_t bytes, const struct processes *all)
{
	struct name *names = calloc(all->by_serial_size + 1, sizeof(*names));
	size_t found = 0, at;

	for (uint32_t i = 0; names != NULL && i < all->by_serial_size; i++) {
		const struct process *process = all->by_serial[i];

		if (process != NULL && !process->removed && is_elsewhere(all, process))
			names[found++] = (struct name){program_of(process), 1};
	}
	if (found > 0) {
		at = (size_t)snprintf(text, bytes,
			"%zu process image%s a malloc of %s own, whose calls are not recorded "
			"(attach --malloc does that):",
			found, found == 1 ? " has" : "s have", found == 1 ? "its" : "their");
		tell(text, bytes, at, names, found);
	}
	free(names);
	return found > 0;
}
