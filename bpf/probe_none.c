/* SPDX-License-Identifier: MIT
 *
 * probe.h and allocator.h where the kernel probe was not built (Meson's option `probe`): says so,
 * and why.
 */
#include "allocator.h"
#include "probe.h"

#include <errno.h>
#include <stdio.h>

int probe_open(struct probe **out, int dirfd, pid_t root, char *why, size_t why_bytes)
{
	(void)out, (void)dirfd, (void)root;
	return probe_try(why, why_bytes);
}

bool probe_asks_privilege(const struct probe *probe)
{
	(void)probe;
	return false;
}

int probe_follow(struct probe **out, int dirfd, pid_t root, const struct probe_sink *sink,
	char *why, size_t why_bytes)
{
	(void)out, (void)dirfd, (void)root, (void)sink;
	return probe_try(why, why_bytes);
}

const char *probe_way(const struct probe *probe)
{
	(void)probe;
	return NULL;
}

int probe_allocating(const struct probe *probe)
{
	(void)probe;
	return -ENOSYS;
}

int allocator_open(struct allocator **out, struct probe *probe, pid_t pid, const char *path,
	const struct allocator_point *points, size_t count, allocator_sink *sink, void *context,
	char *why, size_t why_bytes)
{
	(void)out, (void)probe, (void)pid, (void)path, (void)points, (void)count, (void)sink;
	(void)context;
	return probe_try(why, why_bytes);
}

void allocator_start(struct allocator *allocator)
{
	(void)allocator;
}

int allocator_poll(struct allocator *allocator)
{
	(void)allocator;
	return -ENOSYS;
}

void allocator_count(struct allocator *allocator, struct allocator_account *account)
{
	(void)allocator, (void)account;
}

void allocator_close(struct allocator *allocator, struct allocator_account *account)
{
	(void)allocator, (void)account;
}

double allocator_seconds(const struct allocator_cost *cost)
{
	(void)cost;
	return 0;
}

int probe_poll(struct probe *probe)
{
	(void)probe;
	return -ENOSYS;
}

int probe_close(struct probe *probe, struct probe_account *account)
{
	(void)probe, (void)account;
	return -ENOSYS;
}

int probe_try(char *why, size_t why_bytes)
{
	snprintf(why, why_bytes, "built without the kernel probe (%s)", PROBE_ABSENT);
	return -ENOSYS;
}
