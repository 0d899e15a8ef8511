/* SPDX-License-Identifier: MIT
 *
 * The one place where the recording meets the kernel probe (bpf/probe.h): whether it is wanted,
 * whether it could be opened, what it brought. Called by the collector and the command.
 */
#ifndef HEAPLEDGER_RECORD_KERNEL_H
#define HEAPLEDGER_RECORD_KERNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct probe;

struct kernel {
	bool wanted;
	bool recorded; /* the probe ran until it was closed */
	char why[256]; /* why not */
	uint64_t events;
	uint64_t lost;
};

/* NULL when there is no kernel side; kernel->why says why. */
struct probe *kernel_open(struct kernel *kernel, int dirfd, pid_t root);
void kernel_poll(struct probe *probe);
void kernel_close(struct kernel *kernel, struct probe *probe);

#endif
