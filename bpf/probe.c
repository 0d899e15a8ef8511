/* SPDX-License-Identifier: MIT
 *
 * probe.h over libbpf. Loads probe.bpf.c, or classic.bpf.c where the kernel has no BTF, through its
 * skeleton, turns its events into records of the trace format, and settles at the end whether any
 * is missing.
 */
#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "classic.skel.h"
#include "event.h"
#include "heapledger/record.h"
#include "heapledger/session.h"
#include "heapledger/trace.h"
#include "probe.skel.h"
#include "record/stream.h"
#include "tracefs.h"

static_assert(PROBE_KINDS == EVENT_KINDS && PROBE_FIRST_KIND == EVENT_FIRST_KIND &&
		      EVENT_FIRST_KIND == HL_KIND_brk &&
		      EVENT_PROCESS_FORK == HL_KIND_process_fork &&
		      EVENT_MEMORY == HL_KIND_memory && EVENT_FAULT == HL_KIND_fault &&
		      EVENT_FAULT_WRITE == HL_FAULT_WRITE && EVENT_FAULT_USER == HL_FAULT_USER &&
		      EVENT_FAULT_LARGE == HL_FAULT_LARGE,
	"probe.h says of the totals what event.h does");

#define INITIAL_PID_NAMESPACE UINT64_C(0xeffffffc) /* its inode, fixed in the kernel's ABI */

enum way { WAY_TRACEFS, WAY_RAW, WAY_CLASSIC, WAYS };

struct probe {
	enum way way;
	struct bpf_object *object; /* of the one below that is loaded */
	struct probe_bpf *bpf;
	struct classic_bpf *classic; /* WAY_CLASSIC */
	struct tracefs_links *links; /* of the tracepoints; NULL when attached to the raw ones */
	struct ring_buffer *ring;
	struct stream *stream;
	uint64_t events;
	uint64_t last_ns;
	struct probe_image *images;
	size_t image_count, image_room;
	int error;        /* the first failure to write, -errno */
	uint64_t awaited; /* without a stream: the break that we ask for ourselves ... */
	bool seen;        /* ... and whether the kernel told */
	struct probe_sink sink;
};

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
	return 0;
}

static int say(char *why, size_t why_bytes, int rc, const char *text)
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

static int say_load(const struct probe *probe, char *why, size_t why_bytes, int rc)
{
	const char *missing = missing_privilege();
	struct utsname system;

	if (probe->way == WAY_CLASSIC && missing == NULL &&
		tracefs_offset("syscalls/sys_enter_brk", "brk", 8) < 0)
		return say(why, why_bytes, rc,
			"the kernel has no type information (/sys/kernel/btf/vmlinux), and "
			"without it only root can read where its tracepoints are (tracefs)");
	if ((rc == -EPERM || rc == -EACCES) && missing != NULL) {
		snprintf(why, why_bytes, "no permission: %s (run as root, or give both)", missing);
		return rc;
	}
	if (rc == -EPERM || rc == -EACCES)
		return say(why, why_bytes, rc,
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
		return say(why, why_bytes, -EOPNOTSUPP,
			"inside a container process numbers differ from the kernel's");
	return 0;
}

/* ---- events to records -------------------------------------------------------------------- */

/* How many arguments each call has; the rest of event.argument means nothing. */
static unsigned argument_count(unsigned kind)
{
	switch (kind) {
	case HL_KIND_brk:
		return 1;
	case HL_KIND_munmap:
		return 2;
	case HL_KIND_madvise:
	case HL_KIND_mprotect:
		return 3;
	default:
		return EVENT_ARGUMENTS;
	}
}

static void fill_call(struct hl_syscall_record *record, const struct event *event)
{
	bool is_brk = event->kind == HL_KIND_brk;
	uint64_t argument[EVENT_ARGUMENTS] = {0};

	for (unsigned i = 0; i < argument_count(event->kind); i++)
		argument[i] = event->argument[i];
	record->kind_addr =
		hl_kind_addr((enum hl_kind)event->kind, is_brk ? event->brk : argument[0]);
	record->length = is_brk ? 0 : argument[1];
	record->argument = is_brk ? argument[0] : argument[2];
	record->result = event->result;
	record->cause_size = argument[3];
	record->top_pad = argument[4];
}

static void fill_memory(struct hl_syscall_record *record, const struct event *event)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	record->kind_addr = hl_kind_addr(HL_KIND_memory, 0);
	record->length = event->argument[0];
	record->result = (int64_t)(event->argument[1] * page);
	record->argument = event->argument[2] * page;
	record->top_pad = event->argument[3] * page;
	record->cause_size = event->argument[4] * page;
}

static void fill_fault(struct hl_syscall_record *record, const struct event *event)
{
	record->kind_addr = hl_kind_addr(HL_KIND_fault, event->argument[0]);
	record->length = event->argument[1];
	record->argument = event->argument[2];
}

/* docs/trace-format.md, "Kernel streams", says where each word goes. */
static void fill_record(struct hl_syscall_record *record, const struct event *event)
{
	memset(record, 0, sizeof(*record));
	if (event->kind == HL_KIND_memory) {
		fill_memory(record, event);
	} else if (event->kind == HL_KIND_fault) {
		fill_fault(record, event);
	} else if (event->kind >= HL_KIND_process_fork) {
		record->kind_addr = hl_kind_addr((enum hl_kind)event->kind, 0);
		record->argument = event->argument[0];
		record->length = event->argument[1];
		record->result = (int64_t)event->argument[2];
	} else {
		fill_call(record, event);
	}
	record->tick = event->start_ns;
	record->duration = event->end_ns - event->start_ns;
	record->cause =
		hl_cause_pack(event->allocating, HL_REASON_unknown, HL_REGION_none, event->tgid);
	record->mmap_threshold = event->sequence;
	record->trim_threshold = (uint64_t)event->image << 32 | event->cpu;
}

static int note_image(struct probe *probe, const struct event *event)
{
	struct probe_image *image;

	if (probe->image_count == probe->image_room) {
		size_t room = probe->image_room ? probe->image_room * 2 : 64;

		image = realloc(probe->images, room * sizeof(*image));
		if (image == NULL)
			return -ENOMEM;
		probe->images = image;
		probe->image_room = room;
	}
	image = &probe->images[probe->image_count++];
	image->ns = event->start_ns;
	image->pid = (pid_t)event->tgid;
	memcpy(image->name, event->argument, sizeof(image->name));
	image->name[sizeof(image->name) - 1] = 0;
	return 0;
}

/* Called by libbpf for each event. A stream that cannot be written stops nothing: the ring must be
 * emptied all the same, and what was not written is counted as lost. */
static int take_event(void *context, void *data, size_t bytes)
{
	struct probe *probe = context;
	const struct event *event = data;
	union {
		struct hl_syscall_record record;
		struct hl_slot slots[3];
	} out;
	int rc;

	if (bytes < sizeof(*event))
		return 0;
	if (probe->stream == NULL) {
		probe->seen = probe->seen ||
			      (event->kind == HL_KIND_brk && event->tgid == (uint32_t)getpid() &&
				      event->argument[0] == probe->awaited);
		return 0;
	}
	fill_record(&out.record, event);
	if (probe->sink.event != NULL)
		probe->sink.event(probe->sink.context, event->tid, &out.record);
	if (probe->error)
		return 0;
	rc = stream_append(probe->stream, event->tid, out.slots, 3);
	if (rc == 0 && event->kind == HL_KIND_process_exec)
		rc = note_image(probe, event);
	if (rc != 0) {
		probe->error = rc;
		return 0;
	}
	probe->events++;
	if (event->end_ns > probe->last_ns)
		probe->last_ns = event->end_ns;
	return 0;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int create_stream(struct probe *probe, int dirfd, pid_t root)
{
	struct hl_trace_header header = {
		.source = HL_TRACE_KERNEL,
		.clock = HL_CLOCK_MONOTONIC,
		.pid = (uint32_t)root,
		.ppid = (uint32_t)getpid(),
		.tick_hz = 1000000000,
		.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
	};

	header.start_tick = clock_ns(CLOCK_MONOTONIC);
	header.clock_tick = header.start_tick;
	header.clock_ns = header.start_tick;
	header.realtime_ns = clock_ns(CLOCK_REALTIME);
	return stream_create(&probe->stream, dirfd, &header, NULL);
}

/* ---- loading and attaching ---------------------------------------------------------------- */

static void detach(struct probe *probe)
{
	tracefs_detach(probe->links);
	probe->links = NULL;
	if (probe->bpf != NULL)
		probe_bpf__detach(probe->bpf);
	if (probe->classic != NULL)
		classic_bpf__detach(probe->classic);
}

static int map_fd(const struct probe *probe, const char *name)
{
	return bpf_object__find_map_fd_by_name(probe->object, name);
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
static int load_typed(struct probe *probe)
{
	bool use_tracefs = probe->way == WAY_TRACEFS;
	struct bpf_program *program;
	int rc;

	probe->bpf = probe_bpf__open();
	if (probe->bpf == NULL)
		return -errno;
	probe->object = probe->bpf->obj;
	probe->bpf->rodata->with_allocator = probe->sink.with_allocator;
	rc = set_ring(probe->bpf->maps.ring);
	if (rc == 0 && !probe->sink.with_allocator)
		rc = bpf_map__set_max_entries(probe->bpf->maps.allocating, 1);
	if (rc != 0)
		return rc;
	bpf_object__for_each_program(program, probe->bpf->obj)
	{
		if (bpf_program__type(program) == BPF_PROG_TYPE_TRACEPOINT)
			bpf_program__set_autoload(program, use_tracefs);
	}
	bpf_program__set_autoload(probe->bpf->progs.enter_raw, !use_tracefs);
	bpf_program__set_autoload(probe->bpf->progs.leave_raw, !use_tracefs);
	bpf_program__set_autoload(probe->bpf->progs.fault, probe->sink.with_faults);
	bpf_program__set_autoload(probe->bpf->progs.fault_in_call, probe->sink.with_faults);
	bpf_program__set_autoload(probe->bpf->progs.give, probe->sink.with_faults);
	return probe_bpf__load(probe->bpf);
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

static int load_classic(struct probe *probe)
{
	int rc;

	probe->classic = classic_bpf__open();
	if (probe->classic == NULL)
		return -errno;
	probe->object = probe->classic->obj;
	rc = find_fields(probe->classic);
	if (rc == 0)
		rc = set_ring(probe->classic->maps.ring);
	return rc != 0 ? rc : classic_bpf__load(probe->classic);
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

static int attach_tracefs(struct probe *probe, struct bpf_program *newtask)
{
	static const char *const calls[] = {
		"brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "process_madvise"};
	const size_t count = sizeof(calls) / sizeof(calls[0]);
	struct tracefs_pair pairs[sizeof(calls) / sizeof(calls[0])];
	char name[32];

	for (size_t i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "enter_%s", calls[i]);
		pairs[i].call = calls[i];
		pairs[i].enter = bpf_object__find_program_by_name(probe->object, name);
	}
	return tracefs_attach(&probe->links, pairs, count,
		bpf_object__find_program_by_name(probe->object, "leave"), newtask);
}

static int attach_typed(struct probe *probe)
{
	struct probe_bpf *bpf = probe->bpf;
	int rc = 0;

	attach_one(&bpf->links.forget, bpf->progs.forget, &rc);
	attach_one(&bpf->links.replace, bpf->progs.replace, &rc);
	attach_one(&bpf->links.follow, bpf->progs.follow, &rc);
	if (probe->sink.with_faults) {
		attach_one(&bpf->links.fault, bpf->progs.fault, &rc);
		attach_one(&bpf->links.fault_in_call, bpf->progs.fault_in_call, &rc);
		attach_one(&bpf->links.give, bpf->progs.give, &rc);
	}
	if (rc == 0)
		rc = probe->way == WAY_TRACEFS ? attach_tracefs(probe, NULL) : attach_raw(bpf);
	return rc;
}

static int attach_classic(struct probe *probe)
{
	struct classic_bpf *bpf = probe->classic;
	int rc = 0;

	attach_one(&bpf->links.forget, bpf->progs.forget, &rc);
	attach_one(&bpf->links.replace, bpf->progs.replace, &rc);
	attach_one(&bpf->links.fault, bpf->progs.fault, &rc);
	return rc != 0 ? rc : attach_tracefs(probe, bpf->progs.follow);
}

/* Nobody has to wait until the kernel has let go of the tracepoints. */
static void unload(struct probe *probe)
{
	int gate = tracefs_hand_over(probe->links);

	ring_buffer__free(probe->ring);
	probe->ring = NULL;
	detach(probe);
	probe_bpf__destroy(probe->bpf);
	classic_bpf__destroy(probe->classic);
	probe->bpf = NULL;
	probe->classic = NULL;
	probe->object = NULL;
	if (gate >= 0)
		close(gate);
}

static int start(struct probe *probe, enum way way)
{
	int rc;

	probe->way = way;
	rc = way == WAY_CLASSIC ? load_classic(probe) : load_typed(probe);
	if (rc == 0) {
		probe->ring = ring_buffer__new(map_fd(probe, "ring"), take_event, probe, NULL);
		if (probe->ring == NULL)
			rc = -errno;
	}
	if (rc == 0)
		rc = way == WAY_CLASSIC ? attach_classic(probe) : attach_typed(probe);
	if (rc != 0)
		unload(probe);
	return rc;
}

static const char *const way_wishes[WAYS] = {"tracefs", "raw", "classic"};
static const char *const way_names[WAYS] = {
	"tracepoints of the calls", "raw tracepoints", "classic tracepoints"};

/* HEAPLEDGER_PROBE=tracefs, raw or classic chooses the way, for tests and for comparing what they
 * cost; classic leaves the kernel's types alone. */
static bool may_try(enum way way, bool has_types)
{
	const char *wish = secure_getenv("HEAPLEDGER_PROBE");

	if (wish != NULL)
		return strcmp(wish, way_wishes[way]) == 0;
	return has_types == (way != WAY_CLASSIC);
}

/* A process that runs has threads that were not seen to begin, and a break that was not seen to
 * move: to follow it takes the kernel's types. So it does to read the address of a fault. */
static int check_types(const struct probe *probe, bool *has, char *why, size_t why_bytes)
{
	bool needed = probe->sink.event != NULL || probe->sink.with_faults;

	*has = access("/sys/kernel/btf/vmlinux", R_OK) == 0;
	if (!needed || !may_try(WAY_CLASSIC, *has))
		return 0;
	return say(why, why_bytes, -EOPNOTSUPP,
		"the kernel has no type information (/sys/kernel/btf/vmlinux)");
}

static int start_best(struct probe *probe, char *why, size_t why_bytes)
{
	libbpf_print_fn_t print;
	bool has_types;
	int rc = check_machine(why, why_bytes);

	if (rc == 0)
		rc = check_types(probe, &has_types, why, why_bytes);
	if (rc != 0)
		return rc;
	print = libbpf_set_print(silent);
	rc = -ENOENT;
	for (enum way way = 0; rc != 0 && way < WAYS; way++)
		if (may_try(way, has_types))
			rc = start(probe, way);
	libbpf_set_print(print);
	return rc != 0 ? say_load(probe, why, why_bytes, rc) : 0;
}

/* ---- settling ------------------------------------------------------------------------------ */

static uint64_t calls_under_way(const struct probe *probe)
{
	int fd = map_fd(probe, "calls");
	uint32_t *previous = NULL, tid;
	struct event_call call;
	uint64_t count = 0;

	while (bpf_map_get_next_key(fd, previous, &tid) == 0) {
		previous = &tid;
		if (bpf_map_lookup_elem(fd, &tid, &call) == 0 && call.number != EVENT_NO_CALL)
			count++;
	}
	return count;
}

/* The sum over all CPUs, and each CPU's totals. */
static void add_counters(
	const struct event_counters *each, struct event_counters *sum, struct probe_total *total)
{
	sum->entered += each->entered;
	sum->others += each->others;
	sum->sequence += each->sequence;
	sum->abandoned += each->abandoned;
	sum->unpaired += each->unpaired;
	sum->unfollowed += each->unfollowed;
	for (unsigned i = 0; i < PROBE_KINDS; i++) {
		total[i].ended = each->total[i].ended;
		total[i].dropped = each->total[i].dropped;
	}
}

static int read_counters(
	const struct probe *probe, struct event_counters *sum, struct probe_account *account)
{
	int cpus = libbpf_num_possible_cpus();
	uint32_t zero = 0;
	struct event_counters *each;
	int rc = 0;

	if (cpus <= 0)
		return -ENOSYS;
	each = calloc((size_t)cpus, sizeof(*each));
	account->total = calloc((size_t)cpus, sizeof(*account->total));
	if (each == NULL || account->total == NULL)
		rc = -ENOMEM;
	if (rc == 0 && bpf_map_lookup_elem(map_fd(probe, "counters"), &zero, each) != 0)
		rc = -errno;
	for (int i = 0; rc == 0 && i < cpus; i++)
		add_counters(&each[i], sum, account->total[i]);
	account->cpus = rc == 0 ? (unsigned)cpus : 0;
	free(each);
	return rc;
}

/* Every call that was seen to begin has ended, died with its thread or is still under way; the
 * difference are ends that nothing has counted. */
static int count_lost(const struct probe *probe, struct probe_account *account)
{
	struct event_counters sum = {0};
	uint64_t begun, ended, unseen;
	int rc = read_counters(probe, &sum, account);

	if (rc != 0)
		return rc;
	begun = sum.entered + sum.unpaired + sum.others;
	ended = sum.sequence + sum.abandoned + calls_under_way(probe);
	unseen = begun > ended ? begun - ended : 0;
	account->lost = unseen + sum.unfollowed;
	if (sum.sequence > probe->events)
		account->lost += sum.sequence - probe->events;
	return 0;
}

/* Takes every process out of the table, so that none of them begins a call that is seen. Returns
 * whether there was one: the kernel's side forgets those that have exited. */
static bool forget_tree(const struct probe *probe)
{
	int fd = map_fd(probe, "processes");
	bool any = false;
	uint32_t tgid;

	while (bpf_map_get_next_key(fd, NULL, &tgid) == 0 && bpf_map_delete_elem(fd, &tgid) == 0)
		any = true;
	return any;
}

/* While a tree lives its calls under way go on to end, and the count would not be right. To detach
 * takes most of a second, in which one that was not forgotten would fill the ring. */
static int settle(struct probe *probe, struct probe_account *account)
{
	int rc;

	if (forget_tree(probe))
		detach(probe);
	rc = ring_buffer__consume(probe->ring);
	if (rc >= 0)
		rc = count_lost(probe, account);
	return rc;
}

/* ---- probe.h ------------------------------------------------------------------------------- */

static int follow(const struct probe *probe, pid_t root)
{
	uint32_t tgid = (uint32_t)root;
	struct event_process alone = {.threads = 1, .ran = probe->sink.event != NULL};
	int fd = map_fd(probe, "processes");

	return bpf_map_update_elem(fd, &tgid, &alone, BPF_ANY) != 0 ? -errno : 0;
}

int probe_follow(struct probe **out, int dirfd, pid_t root, const struct probe_sink *sink,
	char *why, size_t why_bytes)
{
	struct probe *probe = calloc(1, sizeof(*probe));
	int rc;

	if (probe == NULL)
		return say(why, why_bytes, -ENOMEM, "out of memory");
	probe->sink = *sink;
	rc = start_best(probe, why, why_bytes);
	if (rc != 0)
		goto fail;
	rc = create_stream(probe, dirfd, root);
	if (rc != 0) {
		snprintf(why, why_bytes, "cannot create the kernel's stream: %s", strerror(-rc));
		goto fail;
	}
	rc = follow(probe, root);
	if (rc != 0) {
		snprintf(why, why_bytes, "cannot name the process to the probe: %s", strerror(-rc));
		stream_close(probe->stream, 0, HL_TRACE_END_DETACHED, 0, 0, 0, NULL, 0);
		goto fail;
	}
	*out = probe;
	return 0;
fail:
	unload(probe);
	free(probe);
	return rc;
}

bool probe_asks_privilege(const struct probe *probe)
{
	struct event_process process;
	uint32_t nobody = 0;

	return bpf_map_lookup_elem(map_fd(probe, "processes"), &nobody, &process) != 0 &&
	       errno == EPERM;
}

int probe_open(struct probe **out, int dirfd, pid_t root, char *why, size_t why_bytes)
{
	return probe_follow(out, dirfd, root, &(struct probe_sink){0}, why, why_bytes);
}

const char *probe_way(const struct probe *probe)
{
	return way_names[probe->way];
}

int probe_allocating(const struct probe *probe)
{
	return map_fd(probe, "allocating");
}

int probe_poll(struct probe *probe)
{
	int rc = ring_buffer__consume(probe->ring);

	if (rc < 0)
		return rc;
	return probe->error;
}

int probe_close(struct probe *probe, struct probe_account *account)
{
	int rc = settle(probe, account);
	int complete = rc == 0 && account->lost == 0 && probe->error == 0;
	int close_rc = stream_close(probe->stream, complete, HL_TRACE_END_DETACHED, 0,
		clock_ns(CLOCK_MONOTONIC), account->lost, NULL, 0);

	account->events = probe->events;
	account->images = probe->images;
	account->image_count = probe->image_count;
	if (rc == 0)
		rc = probe->error != 0 ? probe->error : close_rc;
	unload(probe);
	free(probe);
	return rc;
}

/* Moves the break up and down, past malloc, which must not notice. */
static int see_ourselves(struct probe *probe, char *why, size_t why_bytes)
{
	uint64_t now = (uint64_t)syscall(SYS_brk, 0);
	int rc = follow(probe, getpid());

	probe->awaited = now + (uint64_t)sysconf(_SC_PAGESIZE);
	if (rc == 0) {
		syscall(SYS_brk, probe->awaited);
		syscall(SYS_brk, now);
		rc = ring_buffer__consume(probe->ring);
	}
	if (rc < 0)
		return say(why, why_bytes, rc, "the probe loads, but cannot be read");
	return probe->seen ? 0
			   : say(why, why_bytes, -ENODATA,
				     "the probe loads, but does not see our own system calls");
}

int probe_try(char *why, size_t why_bytes)
{
	struct probe probe = {0};
	int rc = start_best(&probe, why, why_bytes);

	if (rc == 0)
		rc = see_ourselves(&probe, why, why_bytes);
	if (rc == 0)
		snprintf(why, why_bytes, "%s", probe_way(&probe));
	unload(&probe);
	return rc;
}
