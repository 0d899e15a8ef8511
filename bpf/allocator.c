/* SPDX-License-Identifier: MIT
 *
 * allocator.h over libbpf. What a probe costs is measured on two small functions of this process,
 * one whose first instruction the kernel emulates and one whose first it has to step.
 */
#include "allocator.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "allocator.skel.h"
#include "heapledger/record.h"

#define LINKS (2 * (ALLOCATOR_POINTS + 3))
#define FILES 4
#define MEASURE_ROUNDS 5
#define MEASURE_CALLS 200

struct link {
	struct bpf_program *program;
	struct bpf_link *link;
	const char *path;
	pid_t pid;
	uint64_t offset;
	uint64_t cookie;
	uint64_t address; /* in the process */
	bool at_return;
	int file; /* -1 = it cannot be read */
};

/* In which probes are; opened with them, while that is allowed. */
struct file {
	const char *path;
	int fd;
};

struct allocator {
	struct allocator_bpf *bpf;
	struct ring_buffer *ring;
	struct link links[LINKS];
	size_t link_count;
	struct file files[FILES];
	size_t file_count;
	int memory;           /* of the process, to be read; -1 = that is not allowed */
	allocator_sink *sink; /* NULL while it is measured */
	void *context;
	struct event_allocator_counters before; /* what measuring has counted */
	struct allocator_cost cost;
};

void allocator_emulated(void);
void allocator_stepped(void);
void allocator_returning(void);

#define FUNCTION(name, body)                                                                       \
	__asm__(".pushsection .text\n"                                                             \
		".globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" #name          \
		":\n" body "\tret\n.size " #name ", . - " #name "\n.popsection\n")

FUNCTION(allocator_emulated, "push %rbp\n\tpop %rbp\n");
FUNCTION(allocator_stepped, "test %rdi, %rdi\n");
FUNCTION(allocator_returning, "push %rbp\n\tpop %rbp\n");

double allocator_seconds(const struct allocator_cost *cost)
{
	double ns = 0;

	for (int i = 0; i < EVENT_HITS; i++)
		ns += (double)cost->hits[i] * cost->hit_ns[i];
	return ns / 1e9;
}

static int take(void *context, void *data, size_t bytes)
{
	struct allocator *allocator = context;

	if (bytes >= sizeof(struct event_allocation) && allocator->sink != NULL)
		allocator->sink(allocator->context, data);
	return 0;
}

/* ---- links ---------------------------------------------------------------------------------- */

static int open_file(struct allocator *allocator, const char *path)
{
	struct file *file = allocator->files, *end = file + allocator->file_count;

	while (file < end && strcmp(file->path, path) != 0)
		file++;
	if (file == allocator->files + FILES)
		return -1;
	if (file == end) {
		*file = (struct file){path, open(path, O_RDONLY | O_CLOEXEC)};
		allocator->file_count++;
	}
	return file->fd;
}

static void close_files(struct allocator *allocator)
{
	while (allocator->file_count > 0)
		if (allocator->files[--allocator->file_count].fd >= 0)
			close(allocator->files[allocator->file_count].fd);
}

static int open_links(struct allocator *allocator)
{
	for (size_t i = 0; i < allocator->link_count; i++) {
		struct link *link = &allocator->links[i];
		struct bpf_uprobe_opts options;

		memset(&options, 0, sizeof(options)); /* libbpf looks at the gaps, too */
		options.sz = sizeof(options);
		options.retprobe = link->at_return;
		options.bpf_cookie = link->cookie;
		link->link = bpf_program__attach_uprobe_opts(
			link->program, link->pid, link->path, link->offset, &options);
		if (link->link == NULL)
			return -errno;
		link->file = open_file(allocator, link->path);
	}
	return 0;
}

static void empty_batches(void)
{
	static char page[4096] __attribute__((aligned(4096)));
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all) != 0)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (CPU_ISSET(cpu, &all) && sched_setaffinity(0, sizeof(one), &one) == 0)
			madvise(page, sizeof(page), MADV_COLD);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/* The copy of a code page in which probes are goes with the last of them, if nobody else holds it.
 * But the kernel does so itself: it looks at the page to remove a probe, a page that is looked at
 * again counts as active, and those that become so wait in a batch of the CPU's. So they become it
 * before, and the batches are emptied: that is what calling any page cold does. Nor does it go if
 * the file's own page, which it is compared with, was forgotten while nobody had it mapped. */
static void let_go_of_copies(const struct allocator *allocator)
{
	const struct link *link, *end = allocator->links + allocator->link_count;
	char byte;

	for (link = allocator->links; link < end; link++)
		(void)!pread(link->file, &byte, 1, (off_t)link->offset);
	for (int i = 0; i < 3; i++) {
		for (link = allocator->links; link < end; link++)
			(void)!pread(allocator->memory, &byte, 1, (off_t)link->address);
		empty_batches();
	}
}

static void remove_links(struct allocator *allocator)
{
	if (allocator->link_count > 0)
		let_go_of_copies(allocator);
	while (allocator->link_count > 0)
		bpf_link__destroy(allocator->links[--allocator->link_count].link);
	close_files(allocator);
}

static void add_link(
	struct allocator *allocator, struct bpf_program *program, bool at_return, struct link link)
{
	link.program = program;
	link.at_return = at_return;
	link.file = -1;
	allocator->links[allocator->link_count++] = link;
}

static void add_point(struct allocator *allocator, pid_t pid, const char *path,
	const struct allocator_point *point)
{
	struct allocator_bpf *bpf = allocator->bpf;
	struct link link = {
		.pid = pid,
		.path = point->path != NULL ? point->path : path,
		.offset = point->offset,
		.address = point->address,
		.cookie = point->kind | (point->stepped ? EVENT_COOKIE_STEPPED : 0) |
			  (point->shared ? EVENT_COOKIE_SHARED : 0) |
			  (point->throws ? EVENT_COOKIE_THROWS : 0) |
			  (uint64_t)point->skipped << EVENT_COOKIE_SKIPPED_SHIFT,
	};

	switch (point->kind) {
	case HL_KIND_free:
		add_link(allocator, bpf->progs.give_up, false, link);
		break;
	case EVENT_RETURNING:
		add_link(allocator, bpf->progs.returning, false, link);
		break;
	case EVENT_UNWINDING:
		add_link(allocator, bpf->progs.unwinding, false, link);
		break;
	default:
		if (!point->throws)
			add_link(allocator, bpf->progs.leave, true, link);
		add_link(allocator, bpf->progs.enter, false, link);
	}
}

/* ---- measuring ------------------------------------------------------------------------------ */

/* Where a function of ours lies in our own file. */
static int find_own(void (*function)(void), uint64_t *offset)
{
	uint64_t address = (uint64_t)(uintptr_t)function, start, end, from;
	char line[512];
	FILE *file = fopen("/proc/self/maps", "re");
	int rc = -ENOENT;

	if (file == NULL)
		return -errno;
	while (rc != 0 && fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &from) != 3 || address < start ||
			address >= end)
			continue;
		*offset = address - start + from;
		rc = 0;
	}
	fclose(file);
	return rc;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

/* The median of a few rounds, in ns of processor time a call. */
static double time_calls(void (*function)(void))
{
	double round[MEASURE_ROUNDS];
	struct timespec from, to;

	for (int i = 0; i < MEASURE_ROUNDS; i++) {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
		for (int j = 0; j < MEASURE_CALLS; j++)
			function();
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
		round[i] = ((double)(to.tv_sec - from.tv_sec) * 1e9 +
				   (double)(to.tv_nsec - from.tv_nsec)) /
			   MEASURE_CALLS;
	}
	qsort(round, MEASURE_ROUNDS, sizeof(round[0]), by_value);
	return round[MEASURE_ROUNDS / 2];
}

/* What is probed here for it: a free on an instruction that is emulated, one on one that is not,
 * and a call with its return. */
static const struct {
	void (*function)(void);
	uint8_t kind;
	int hit;
} measured[] = {
	{allocator_emulated, HL_KIND_free, EVENT_HIT_EMULATED},
	{allocator_stepped, HL_KIND_free, EVENT_HIT_STEPPED},
	{allocator_returning, HL_KIND_malloc, EVENT_HIT_RETURN},
};

#define MEASURED (sizeof(measured) / sizeof(measured[0]))

static int add_measured(struct allocator *allocator)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < MEASURED; i++) {
		struct allocator_point point = {.kind = measured[i].kind};

		rc = find_own(measured[i].function, &point.offset);
		allocator->cost.hit_ns[measured[i].hit] = -time_calls(measured[i].function);
		add_point(allocator, getpid(), "/proc/self/exe", &point);
	}
	return rc;
}

static void measure(struct allocator *allocator)
{
	double *hit = allocator->cost.hit_ns;

	allocator->bpf->bss->measuring = (uint32_t)gettid();
	for (size_t i = 0; i < MEASURED; i++) {
		hit[measured[i].hit] += time_calls(measured[i].function);
		ring_buffer__consume(allocator->ring);
	}
	hit[EVENT_HIT_RETURN] -= hit[EVENT_HIT_EMULATED];
	allocator->bpf->bss->measuring = 0;
}

/* ---- counting ------------------------------------------------------------------------------- */

static int read_counters(const struct allocator *allocator, struct event_allocator_counters *sum)
{
	int cpus = libbpf_num_possible_cpus(), fd = bpf_map__fd(allocator->bpf->maps.counters);
	struct event_allocator_counters *each;
	uint32_t zero = 0;
	int rc = 0;

	*sum = (struct event_allocator_counters){0};
	if (cpus <= 0)
		return -ENOSYS;
	each = calloc((size_t)cpus, sizeof(*each));
	if (each == NULL)
		return -ENOMEM;
	if (bpf_map_lookup_elem(fd, &zero, each) != 0)
		rc = -errno;
	for (int i = 0; rc == 0 && i < cpus; i++) {
		for (int j = 0; j < EVENT_HITS; j++)
			sum->hit[j] += each[i].hit[j];
		sum->made += each[i].made;
		sum->lost += each[i].lost;
	}
	free(each);
	return rc;
}

/* ---- allocator.h ---------------------------------------------------------------------------- */

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
	return 0;
}

/* HEAPLEDGER_ALLOCATOR_RING is a size in bytes, for tests of what happens when the ring is full. */
static int load(struct allocator *allocator, struct probe *probe)
{
	const char *wish = getenv("HEAPLEDGER_ALLOCATOR_RING");
	int rc = 0;

	allocator->bpf = allocator_bpf__open();
	if (allocator->bpf == NULL)
		return -errno;
	if (wish != NULL)
		rc = bpf_map__set_max_entries(
			allocator->bpf->maps.allocations, (uint32_t)strtoul(wish, NULL, 10));
	if (rc == 0)
		rc = bpf_map__reuse_fd(allocator->bpf->maps.allocating, probe_allocating(probe));
	if (rc == 0)
		rc = allocator_bpf__load(allocator->bpf);
	if (rc != 0)
		return rc;
	allocator->bpf->links.forget = bpf_program__attach(allocator->bpf->progs.forget);
	allocator->bpf->links.replace = bpf_program__attach(allocator->bpf->progs.replace);
	if (allocator->bpf->links.forget == NULL || allocator->bpf->links.replace == NULL)
		return -errno;
	allocator->ring = ring_buffer__new(
		bpf_map__fd(allocator->bpf->maps.allocations), take, allocator, NULL);
	return allocator->ring == NULL ? -errno : 0;
}

static void unload(struct allocator *allocator)
{
	remove_links(allocator);
	if (allocator->memory >= 0)
		close(allocator->memory);
	ring_buffer__free(allocator->ring);
	allocator_bpf__destroy(allocator->bpf);
	free(allocator);
}

int allocator_open(struct allocator **out, struct probe *probe, pid_t pid, const char *path,
	const struct allocator_point *points, size_t count, allocator_sink *sink, void *context,
	char *why, size_t why_bytes)
{
	struct allocator *allocator = calloc(1, sizeof(*allocator));
	libbpf_print_fn_t print = libbpf_set_print(silent);
	int rc = allocator == NULL ? -ENOMEM : load(allocator, probe);
	char memory[64];

	snprintf(memory, sizeof(memory), "/proc/%d/mem", (int)pid);
	if (allocator != NULL)
		allocator->memory = open(memory, O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; rc == 0 && i < count && i < ALLOCATOR_POINTS; i++)
		add_point(allocator, pid, path, &points[i]);
	if (rc == 0)
		rc = add_measured(allocator);
	if (rc == 0)
		rc = open_links(allocator);
	if (rc == 0) {
		let_go_of_copies(allocator); /* already, in case we are killed */
		measure(allocator);
		rc = read_counters(allocator, &allocator->before);
	}
	libbpf_set_print(print);
	if (rc != 0) {
		snprintf(why, why_bytes, "the kernel does not set probes on it: %s", strerror(-rc));
		if (allocator != NULL)
			unload(allocator);
		return rc;
	}
	allocator->bpf->bss->process = (uint32_t)pid;
	allocator->sink = sink;
	allocator->context = context;
	*out = allocator;
	return 0;
}

void allocator_start(struct allocator *allocator)
{
	allocator->bpf->bss->on = true;
}

int allocator_poll(struct allocator *allocator)
{
	return ring_buffer__consume(allocator->ring);
}

void allocator_count(struct allocator *allocator, struct allocator_account *account)
{
	struct event_allocator_counters sum;

	ring_buffer__consume(allocator->ring);
	*account = (struct allocator_account){.cost = allocator->cost};
	if (read_counters(allocator, &sum) != 0)
		return;
	account->made = sum.made - allocator->before.made;
	account->lost = sum.lost - allocator->before.lost;
	for (int i = 0; i < EVENT_HITS; i++)
		account->cost.hits[i] = sum.hit[i] - allocator->before.hit[i];
}

void allocator_close(struct allocator *allocator, struct allocator_account *account)
{
	allocator->bpf->bss->on = false;
	remove_links(allocator);
	allocator_count(allocator, account);
	unload(allocator);
}
