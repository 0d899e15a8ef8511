/* SPDX-License-Identifier: MIT
 *
 * Attaches BPF programs to the tracepoints syscalls:sys_enter_* and sys_exit_*, and says where the
 * fields of a tracepoint are. Called by load.c;
 * the only file that knows tracefs, and it neither mounts nor changes anything in it.
 */
#ifndef HEAPLEDGER_TRACEFS_H
#define HEAPLEDGER_TRACEFS_H

#include <stddef.h>

struct bpf_program;
struct tracefs_links;

struct tracefs_pair {
	const char *call;          /* name of the system call */
	struct bpf_program *enter; /* what its beginning runs */
};

/* All beginnings and, before any of them, all ends; at last `newtask`, if it is not NULL, to
 * task:task_newtask. 0, or -errno with nothing left attached. */
int tracefs_attach(struct tracefs_links **out, const struct tracefs_pair *pairs, size_t count,
	struct bpf_program *leave, struct bpf_program *newtask);

/* Where a field lies in the context of a tracepoint such as "task/task_newtask", by its format; or
 * -errno. */
int tracefs_offset(const char *event, const char *field, unsigned bytes);

/* Beginnings first. NULL is allowed. The kernel takes 30 ms and more for each of them, unless
 * somebody else holds it too. */
void tracefs_detach(struct tracefs_links *links);

/* Starts a process that holds the links as well, so that tracefs_detach takes no time, and ends a
 * moment after the descriptor that is returned was closed. A recording that follows at once finds
 * the tracepoints still switched on. -1 (also for NULL): tracefs_detach takes its time. */
int tracefs_hand_over(const struct tracefs_links *links);

#endif
