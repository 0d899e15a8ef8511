/* SPDX-License-Identifier: MIT
 *
 * See kernel.h.
 */
#include "kernel.h"
#include "privilege.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct probe *kernel_follow(
	struct kernel *kernel, int dirfd, pid_t root, const struct probe_sink *sink)
{
	struct probe *probe = NULL;

	if (!kernel->wanted) {
		snprintf(kernel->why, sizeof(kernel->why), "switched off with --kernel off");
		return NULL;
	}
	privilege_raise();
	if (probe_follow(&probe, dirfd, root, sink, kernel->why, sizeof(kernel->why)) != 0)
		return NULL;
	kernel->recorded = true;
	kernel->way = probe_way(probe);
	return probe;
}

struct probe *kernel_open(struct kernel *kernel, int dirfd, pid_t root)
{
	return kernel_follow(
		kernel, dirfd, root, &(struct probe_sink){.with_faults = kernel->with_faults});
}

void kernel_poll(struct probe *probe)
{
	/* A stream that cannot be written stays INCOMPLETE, and probe_close reports it. */
	if (probe != NULL)
		probe_poll(probe);
}

void kernel_close(struct kernel *kernel, struct probe *probe)
{
	int rc;

	if (probe == NULL)
		return;
	rc = probe_close(probe, &kernel->account);
	if (rc == 0)
		return;
	kernel->recorded = false;
	snprintf(kernel->why, sizeof(kernel->why), "its stream could not be written: %s",
		strerror(-rc));
}

void kernel_free(struct kernel *kernel)
{
	free(kernel->account.total);
	free(kernel->account.images);
	kernel->account = (struct probe_account){0};
}
