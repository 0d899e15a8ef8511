/* SPDX-License-Identifier: MIT
 *
 * See load.h. Loads probe.bpf.c, or classic.bpf.c where the kernel has no BTF, through its
 * skeleton.
 */
#include "load.h"

#include <bpf/bpf.h>
#include <linux/types.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "classic.skel.h"
#include "event.h"
#include "probe.skel.h"
#include "tracefs.h"

#define INITIAL_PID_NAMESPACE UINT64_C(0xeffffffc) /* its inode, fixed in the kernel's ABI */

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
	return 0;
}

int load_say(char *why, size_t why_bytes, int rc, const char *text)
{
	snprintf(why, why_bytes, "%s", text);
	return rc;
}

/* Bits of CapEff, linux/capability.h. CAP_SYS_ADMIN stands for both. */
static const char *missing_privilege(void)
{
	unsigned long long mask = 0;
	char line[256];
	FILE *file = fopen("/proc/self/status", "re");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "CapEff: %llx", &mask) == 1)
			break;
	if (file != NULL)
		fclose(file);
	if ((mask >> 21 & 1) != 0 || ((mask >> 38 & 1) != 0 && (mask >> 39 & 1) != 0))
		return NULL;
	if ((mask >> 39 & 1) != 0)
		return "CAP_PERFMON is missing";
	return (mask >> 38 & 1) != 0 ? "CAP_BPF is missing" : "CAP_BPF and CAP_PERFMON are missing";
}

static int say_load(const struct load *load, char *why, size_t why_bytes, int rc)
{
	const char *missing = missing_privilege();
	struct utsname system;

	if (load->way == LOAD_CLASSIC && missing == NULL &&
		tracefs_offset("syscalls/sys_enter_brk", "brk", 8) < 0)
		return load_say(why, why_bytes, rc,
			"the kernel has no type information (/sys/kernel/btf/vmlinux), and "
			"without it only root can read where its tracepoints are (tracefs)");
	if ((rc == -EPERM || rc == -EACCES) && missing != NULL) {
		snprintf(why, why_bytes, "no permission: %s (run as root, or give both)", missing);
		return rc;
	}
	if (rc == -EPERM || rc == -EACCES)
		return load_say(why, why_bytes, rc,
			"no permission in spite of CAP_BPF and CAP_PERFMON: the limit of locked "
			"memory (ulimit -l), lockdown or a security module");
	if (uname(&system) != 0)
		strcpy(system.release, "?");
	snprintf(why, why_bytes, "kernel %.40s does not take the probe: %s", system.release,
		strerror(-rc));
	return rc;
}

/* What the probe cannot do without, each with its own sentence. */
static int check_machine(char *why, size_t why_bytes)
{
	struct stat info;

	if (stat("/proc/self/ns/pid", &info) == 0 && info.st_ino != INITIAL_PID_NAMESPACE)
		return load_say(why, why_bytes, -EOPNOTSUPP,
			"inside a container process numbers differ from the kernel's");
	return 0;
}

void load_detach(struct load *load)
{
	tracefs_detach(load->links);
	load->links = NULL;
	if (load->bpf != NULL)
		probe_bpf__detach(load->bpf);
	if (load->classic != NULL)
		classic_bpf__detach(load->classic);
}

int load_map(const struct load *load, const char *name)
{
	return bpf_object__find_map_fd_by_name(load->object, name);
}

/* HEAPLEDGER_PROBE_RING is a size in bytes, for tests of what happens when the ring is full. */
static int set_ring(struct bpf_map *ring)
{
	const char *wish = secure_getenv("HEAPLEDGER_PROBE_RING");

	if (wish == NULL)
		return 0;
	return bpf_map__set_max_entries(ring, (uint32_t)strtoul(wish, NULL, 10));
}

/* Only one of the ways is loaded; the kernel need not even accept the others. */
static int load_typed(struct load *load)
{
	bool use_tracefs = load->way == LOAD_TRACEFS;
	struct bpf_program *program;
	int rc;

	load->bpf = probe_bpf__open();
	if (load->bpf == NULL)
		return -errno;
	load->object = load->bpf->obj;
	load->bpf->rodata->with_allocator = load->wish.with_allocator;
	rc = set_ring(load->bpf->maps.ring);
	if (rc == 0 && !load->wish.with_allocator)
		rc = bpf_map__set_max_entries(load->bpf->maps.allocating, 1);
	if (rc != 0)
		return rc;
	bpf_object__for_each_program(program, load->bpf->obj)
	{
		if (bpf_program__type(program) == BPF_PROG_TYPE_TRACEPOINT)
			bpf_program__set_autoload(program, use_tracefs);
	}
	bpf_program__set_autoload(load->bpf->progs.enter_raw, !use_tracefs);
	bpf_program__set_autoload(load->bpf->progs.leave_raw, !use_tracefs);
	bpf_program__set_autoload(load->bpf->progs.fault, load->wish.with_faults);
	bpf_program__set_autoload(load->bpf->progs.fault_in_call, load->wish.with_faults);
	bpf_program__set_autoload(load->bpf->progs.give, load->wish.with_faults);
	return probe_bpf__load(load->bpf);
}

/* Of the system calls' tracepoints the kernel itself has the layout fixed, except where a patched
 * one has more in front of it. */
static int find_fields(struct classic_bpf *classic)
{
	int pid = tracefs_offset("task/task_newtask", "pid", 4);
	int flags = tracefs_offset("task/task_newtask", "clone_flags", 8);

	if (pid < 0 || flags < 0)
		return pid < 0 ? pid : flags;
	if (tracefs_offset("syscalls/sys_enter_brk", "brk", 8) != 16 ||
		tracefs_offset("syscalls/sys_exit_brk", "__syscall_nr", 4) != 8 ||
		tracefs_offset("syscalls/sys_exit_brk", "ret", 8) != 16)
		return -EOPNOTSUPP;
	classic->rodata->pid_offset = (uint32_t)pid;
	classic->rodata->flags_offset = (uint32_t)flags;
	return 0;
}

static int load_classic(struct load *load)
{
	int rc;

	load->classic = classic_bpf__open();
	if (load->classic == NULL)
		return -errno;
	load->object = load->classic->obj;
	rc = find_fields(load->classic);
	if (rc == 0)
		rc = set_ring(load->classic->maps.ring);
	return rc != 0 ? rc : classic_bpf__load(load->classic);
}

static struct bpf_link *attach_one(struct bpf_link **link, struct bpf_program *program, int *rc)
{
	if (*rc == 0) {
		*link = bpf_program__attach(program);
		if (*link == NULL)
			*rc = -errno;
	}
	return *link;
}

/* Ends before beginnings, or a call that is seen to begin might not be seen to end; and both
 * before the tree can grow. */
static int attach_raw(struct probe_bpf *bpf)
{
	int rc = 0;

	attach_one(&bpf->links.leave_raw, bpf->progs.leave_raw, &rc);
	attach_one(&bpf->links.enter_raw, bpf->progs.enter_raw, &rc);
	return rc;
}

static int attach_tracefs(struct load *load, struct bpf_program *newtask)
{
	static const char *const calls[] = {
		"brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "process_madvise"};
	const size_t count = sizeof(calls) / sizeof(calls[0]);
	struct tracefs_pair pairs[sizeof(calls) / sizeof(calls[0])];
	char name[32];

	for (size_t i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "enter_%s", calls[i]);
		pairs[i].call = calls[i];
		pairs[i].enter = bpf_object__find_program_by_name(load->object, name);
	}
	return tracefs_attach(&load->links, pairs, count,
		bpf_object__find_program_by_name(load->object, "leave"), newtask);
}

static int attach_typed(struct load *load)
{
	struct probe_bpf *bpf = load->bpf;
	int rc = 0;

	attach_one(&bpf->links.forget, bpf->progs.forget, &rc);
	attach_one(&bpf->links.replace, bpf->progs.replace, &rc);
	attach_one(&bpf->links.follow, bpf->progs.follow, &rc);
	if (load->wish.with_faults) {
		attach_one(&bpf->links.fault, bpf->progs.fault, &rc);
		attach_one(&bpf->links.fault_in_call, bpf->progs.fault_in_call, &rc);
		attach_one(&bpf->links.give, bpf->progs.give, &rc);
	}
	if (rc == 0)
		rc = load->way == LOAD_TRACEFS ? attach_tracefs(load, NULL) : attach_raw(bpf);
	return rc;
}

static int attach_classic(struct load *load)
{
	struct classic_bpf *bpf = load->classic;
	int rc = 0;

	attach_one(&bpf->links.forget, bpf->progs.forget, &rc);
	attach_one(&bpf->links.replace, bpf->progs.replace, &rc);
	attach_one(&bpf->links.fault, bpf->progs.fault, &rc);
	return rc != 0 ? rc : attach_tracefs(load, bpf->progs.follow);
}

/* Nobody has to wait until the kernel has let go of the tracepoints. */
void load_free(struct load *load)
{
	int gate = tracefs_hand_over(load->links);

	ring_buffer__free(load->ring);
	load->ring = NULL;
	load_detach(load);
	probe_bpf__destroy(load->bpf);
	classic_bpf__destroy(load->classic);
	load->bpf = NULL;
	load->classic = NULL;
	load->object = NULL;
	if (gate >= 0)
		close(gate);
}

static int start(struct load *load, enum load_way way)
{
	int rc;

	load->way = way;
	rc = way == LOAD_CLASSIC ? load_classic(load) : load_typed(load);
	if (rc == 0) {
		load->ring = ring_buffer__new(
			load_map(load, "ring"), load->wish.take, load->wish.context, NULL);
		if (load->ring == NULL)
			rc = -errno;
	}
	if (rc == 0)
		rc = way == LOAD_CLASSIC ? attach_classic(load) : attach_typed(load);
	if (rc != 0)
		load_free(load);
	return rc;
}

static const char *const way_wishes[LOAD_WAYS] = {"tracefs", "raw", "classic"};
const char *load_way_name(const struct load *load)
{
	static const char *const names[LOAD_WAYS] = {
		"tracepoints of the calls", "raw tracepoints", "classic tracepoints"};
	return names[load->way];
}

/* HEAPLEDGER_PROBE=tracefs, raw or classic chooses the way, for tests and for comparing what they
 * cost; classic leaves the kernel's types alone. */
static bool may_try(enum load_way way, bool has_types)
{
	const char *wish = secure_getenv("HEAPLEDGER_PROBE");

	if (wish != NULL)
		return strcmp(wish, way_wishes[way]) == 0;
	return has_types == (way != LOAD_CLASSIC);
}

/* A process that runs has threads that were not seen to begin, and a break that was not seen to
 * move: to follow it takes the kernel's types. So it does to read the address of a fault. */
static int check_types(const struct load *load, bool *has, char *why, size_t why_bytes)
{
	bool needed = load->wish.runs || load->wish.with_faults;

	*has = access("/sys/kernel/btf/vmlinux", R_OK) == 0;
	if (!needed || !may_try(LOAD_CLASSIC, *has))
		return 0;
	return load_say(why, why_bytes, -EOPNOTSUPP,
		"the kernel has no type information (/sys/kernel/btf/vmlinux)");
}

int load_best(struct load *load, const struct load_wish *wish, char *why, size_t why_bytes)
{
	libbpf_print_fn_t print;
	bool has_types;
	int rc = check_machine(why, why_bytes);

	*load = (struct load){.wish = *wish};
	if (rc == 0)
		rc = check_types(load, &has_types, why, why_bytes);
	if (rc != 0)
		return rc;
	print = libbpf_set_print(silent);
	rc = -ENOENT;
	for (enum load_way way = 0; rc != 0 && way < LOAD_WAYS; way++)
		if (may_try(way, has_types))
			rc = start(load, way);
	libbpf_set_print(print);
	return rc != 0 ? say_load(load, why, why_bytes, rc) : 0;
}
