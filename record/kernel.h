/* SPDX-License-Identifier: MIT
 *
 * The one place where the recording meets the kernel probe (bpf/probe.h): whether it is wanted,
 * whether it could be opened, what it brought. Called by the collector and the command.
 */
#ifndef HEAPLEDGER_RECORD_KERNEL_H
#define HEAPLEDGER_RECORD_KERNEL_H

#include "bpf/probe.h"

#include <stdbool.h>

struct kernel {
	bool wanted;
	bool with_faults;             /* each one, by its address */
	bool recorded;                /* the probe ran until it was closed */
	char why[256];                /* why not */
	const char *way;              /* how the probe was attached; NULL if it was not */
	struct probe_account account; /* when it was closed */
};

/* NULL when there is no kernel side; kernel->why says why. Privileges are raised for it, and left
 * so: the caller gives them up. */
struct probe *kernel_open(struct kernel *kernel, int dirfd, pid_t root);
/* The same for a process that runs. */
struct probe *kernel_follow(
	struct kernel *kernel, int dirfd, pid_t root, const struct probe_sink *sink);
void kernel_poll(struct probe *probe);
void kernel_close(struct kernel *kernel, struct probe *probe);
void kernel_free(struct kernel *kernel);

#endif
