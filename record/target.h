/* SPDX-License-Identifier: MIT
 *
 * A process that runs, as it is found from outside: whether it can be followed, its command, and
 * where its allocator lies in which file. Called by cmd_attach.c; reads /proc and files, nothing is
 * changed.
 */
#ifndef HEAPLEDGER_RECORD_TARGET_H
#define HEAPLEDGER_RECORD_TARGET_H

#include "bpf/allocator.h"
#include "heapledger/session.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* 0, or TOOL_NOT_FOUND or TOOL_CANNOT_RUN and a line that says why it cannot be followed. */
int target_check(pid_t pid, char *why, size_t why_bytes);

/* More than one; where the main one has no memory any more, it has ended before the others. */
bool target_has_threads(pid_t pid);

/* Its argv joined by NUL, as far as there is room; returns its length, 0 = unknown. */
size_t target_command(pid_t pid, char command[HL_COMMAND_BYTES]);
pid_t target_parent(pid_t pid);

struct target_allocator {
	char name[PATH_MAX];     /* as the process has it */
	char path[PATH_MAX];     /* by which it can be opened from here */
	char unwinder[PATH_MAX]; /* the same of the library where exceptions begin */
	struct allocator_point point[ALLOCATOR_POINTS];
	size_t count;
	bool operators_missing; /* it has its own new and delete, and cannot be probed there */
};

/* The object that serves malloc, and where its functions can be probed. 0, or -errno with `why`. */
int target_find_allocator(
	struct target_allocator *allocator, pid_t pid, char *why, size_t why_bytes);

#endif
