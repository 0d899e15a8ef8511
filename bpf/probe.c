/* SPDX-License-Identifier: MIT
 *
 * probe.h over libbpf: has the kernel's side loaded (load.h), writes its events as records of the
 * trace format (event_record.h), and settles at the end whether any is missing.
 */
#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "event.h"
#include "event_record.h"
#include "heapledger/record.h"
#include "heapledger/session.h"
#include "heapledger/trace.h"
#include "load.h"
#include "record/stream.h"

static_assert(PROBE_KINDS == EVENT_KINDS && PROBE_FIRST_KIND == EVENT_FIRST_KIND &&
		      EVENT_FIRST_KIND == HL_KIND_brk &&
		      EVENT_PROCESS_FORK == HL_KIND_process_fork &&
		      EVENT_MEMORY == HL_KIND_memory && EVENT_FAULT == HL_KIND_fault &&
		      EVENT_FAULT_WRITE == HL_FAULT_WRITE && EVENT_FAULT_USER == HL_FAULT_USER &&
		      EVENT_FAULT_LARGE == HL_FAULT_LARGE,
	"probe.h says of the totals what event.h does");

struct probe {
	struct load load;
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

/* ---- events -------------------------------------------------------------------------------- */

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
	event_record(&out.record, event);
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

static int load(struct probe *probe, char *why, size_t why_bytes)
{
	const struct load_wish wish = {
		.take = take_event,
		.context = probe,
		.runs = probe->sink.event != NULL,
		.with_allocator = probe->sink.with_allocator,
		.with_faults = probe->sink.with_faults,
	};

	return load_best(&probe->load, &wish, why, why_bytes);
}

/* ---- settling ------------------------------------------------------------------------------ */

static uint64_t calls_under_way(const struct probe *probe)
{
	int fd = load_map(&probe->load, "calls");
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
	if (rc == 0 && bpf_map_lookup_elem(load_map(&probe->load, "counters"), &zero, each) != 0)
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
	int fd = load_map(&probe->load, "processes");
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
		load_detach(&probe->load);
	rc = ring_buffer__consume(probe->load.ring);
	if (rc >= 0)
		rc = count_lost(probe, account);
	return rc;
}

/* ---- probe.h ------------------------------------------------------------------------------- */

static int follow(const struct probe *probe, pid_t root)
{
	uint32_t tgid = (uint32_t)root;
	struct event_process alone = {.threads = 1, .ran = probe->sink.event != NULL};
	int fd = load_map(&probe->load, "processes");

	return bpf_map_update_elem(fd, &tgid, &alone, BPF_ANY) != 0 ? -errno : 0;
}

int probe_follow(struct probe **out, int dirfd, pid_t root, const struct probe_sink *sink,
	char *why, size_t why_bytes)
{
	struct probe *probe = calloc(1, sizeof(*probe));
	int rc;

	if (probe == NULL)
		return load_say(why, why_bytes, -ENOMEM, "out of memory");
	probe->sink = *sink;
	rc = load(probe, why, why_bytes);
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
	load_free(&probe->load);
	free(probe);
	return rc;
}

bool probe_asks_privilege(const struct probe *probe)
{
	struct event_process process;
	uint32_t nobody = 0;

	return bpf_map_lookup_elem(load_map(&probe->load, "processes"), &nobody, &process) != 0 &&
	       errno == EPERM;
}

int probe_open(struct probe **out, int dirfd, pid_t root, char *why, size_t why_bytes)
{
	return probe_follow(out, dirfd, root, &(struct probe_sink){0}, why, why_bytes);
}

const char *probe_way(const struct probe *probe)
{
	return load_way_name(&probe->load);
}

int probe_allocating(const struct probe *probe)
{
	return load_map(&probe->load, "allocating");
}

int probe_poll(struct probe *probe)
{
	int rc = ring_buffer__consume(probe->load.ring);

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
	load_free(&probe->load);
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
		rc = ring_buffer__consume(probe->load.ring);
	}
	if (rc < 0)
		return load_say(why, why_bytes, rc, "the probe loads, but cannot be read");
	return probe->seen ? 0
			   : load_say(why, why_bytes, -ENODATA,
				     "the probe loads, but does not see our own system calls");
}

int probe_try(char *why, size_t why_bytes)
{
	struct probe probe = {0};
	int rc = load(&probe, why, why_bytes);

	if (rc == 0)
		rc = see_ourselves(&probe, why, why_bytes);
	if (rc == 0)
		snprintf(why, why_bytes, "%s", probe_way(&probe));
	load_free(&probe.load);
	return rc;
}
