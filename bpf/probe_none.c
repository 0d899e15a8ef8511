/* SPDX-License-Identifier: MIT
 *
 * probe.h where the kernel probe was not built (Meson's option `probe`): says so, and why.
 */
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
