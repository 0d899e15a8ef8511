/* SPDX-License-Identifier: MIT
 *
 * See ring.h. A cut has steps, and each is a task of the worker: to find the time before which
 * everything goes, then each stream. In between, the collector's thread puts the new file in the
 * place of the old one. Streams that end before the cut are removed first, and a parent keeps what
 * the streams of its children need: at every moment the directory is a trace that can be read.
 */
#include "ring.h"
#include "encode.h"
#include "taking.h"

#include "analyzer/decode.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FULL_LIMITS 3   /* so many times the limit, and no more is taken */
#define WORKER_NICE 10  /* the program and the collector come first */
#define AWAITED_SECONDS 10 /* a child that was forked is seen by then */

/* What is known of a file when a cut is planned. */
struct file {
	char name[PROCESS_NAME_BYTES];
	uint64_t size;
};

struct block {
	uint64_t last_tick;
	uint64_t bytes;
};

struct ring {
	struct processes *all;
	uint64_t limit;
	uint64_t heap_bytes; /* of all streams */
	uint64_t postponed;  /* nothing is planned before there is so much; 0 = as usual */
	uint64_t cut;        /* the time of the cut under way; 0 = none */
	uint64_t last_cut;
	uint32_t next;   /* serial: the streams before it are cut */
	uint32_t looked; /* serial: its pages that are being filled were looked at; 0 = none */
	struct compact_child *children;
	uint32_t children_size;

	/* The worker's task. It has these to itself until `done`. */
	bool working;
	bool threaded;
	pthread_t thread;
	atomic_bool done;
	struct process *process; /* whose stream is cut; NULL = the cut is planned */
	char name[PROCESS_NAME_BYTES];
	struct compact_request request;
	struct compact_result result;
	struct file *files;
	size_t file_count;
	uint64_t planned;
	int rc;
};

int ring_open(struct ring **out, struct processes *all, uint64_t bytes)
{
	struct ring *ring = calloc(1, sizeof(*ring));

	if (ring == NULL)
		return -ENOMEM;
	ring->all = all;
	ring->limit = bytes;
	*out = ring;
	return 0;
}

/* Bytes of records that are later than the last cut. */
static uint64_t newest_bytes(const struct ring *ring)
{
	uint64_t bytes = ring->all->bytes;

	for (const struct process *p = ring->all->alive; p != NULL; p = p->next)
		if (p->stream != NULL)
			bytes += stream_bytes(p->stream);
	return bytes > ring->heap_bytes ? bytes - ring->heap_bytes : 0;
}

bool ring_full(const struct ring *ring)
{
	return ring != NULL && ring->working &&
	       newest_bytes(ring) > FULL_LIMITS * ring->limit + ring->heap_bytes;
}

/* ---- the worker ------------------------------------------------------------------------------ */

static int add_block(struct block **list, size_t *count, size_t *capacity, struct block block)
{
	if (*count == *capacity) {
		size_t grown = *capacity != 0 ? *capacity * 2 : 1024;
		struct block *moved = realloc(*list, grown * sizeof(**list));

		if (moved == NULL)
			return -ENOMEM;
		*list = moved;
		*capacity = grown;
	}
	(*list)[(*count)++] = block;
	return 0;
}

static int read_blocks(
	const struct ring *ring, const struct file *file, int fd, struct block **list, size_t *count,
	size_t *capacity)
{
	struct hl_trace_header header;
	uint64_t at;
	int rc = 0;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header))
		return -EIO;
	for (at = header.header_bytes; rc == 0 && at < file->size;) {
		struct hl_block_header block;

		if (pread(fd, &block, sizeof(block), (off_t)at) != sizeof(block) ||
			decode_check_block(&block))
			return -EIO;
		if (block.last_tick > ring->last_cut)
			rc = add_block(list, count, capacity,
				(struct block){block.last_tick,
					sizeof(block) + block.stored_bytes});
		at += sizeof(block) + block.stored_bytes;
	}
	return rc;
}

static int newest_first(const void *a, const void *b)
{
	const struct block *left = a, *right = b;

	return (left->last_tick < right->last_tick) - (left->last_tick > right->last_tick);
}

/* The time after which there are no more than the limit's bytes; 0 if there are not so many. */
static uint64_t find_cut(const struct ring *ring, struct block *list, size_t count)
{
	uint64_t bytes = 0;

	if (count == 0)
		return 0;
	qsort(list, count, sizeof(*list), newest_first);
	for (size_t i = 0; i < count; i++) {
		bytes += list[i].bytes;
		if (bytes > ring->limit)
			return list[i].last_tick;
	}
	return 0;
}

static int plan(struct ring *ring)
{
	struct block *list = NULL;
	size_t count = 0, capacity = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ring->file_count; i++) {
		int fd = openat(ring->all->dirfd, ring->files[i].name, O_RDONLY | O_CLOEXEC);

		rc = fd < 0 ? -errno
			    : read_blocks(ring, &ring->files[i], fd, &list, &count, &capacity);
		if (fd >= 0)
			close(fd);
	}
	if (rc == 0)
		ring->planned = find_cut(ring, list, count);
	free(list);
	return rc;
}

static void work(struct ring *ring)
{
	ring->rc = ring->process == NULL ? plan(ring)
					 : compact_write(&ring->request, &ring->result);
}

static void *worker(void *argument)
{
	struct ring *ring = argument;

	setpriority(PRIO_PROCESS, (id_t)gettid(), WORKER_NICE);
	work(ring);
	encode_thread_end();
	atomic_store(&ring->done, true);
	return NULL;
}

/* ---- the collector's thread ------------------------------------------------------------------ */

static void start_task(struct ring *ring)
{
	ring->working = true;
	atomic_store(&ring->done, false);
	ring->threaded = pthread_create(&ring->thread, NULL, worker, ring) == 0;
	if (ring->threaded)
		return;
	work(ring);
	atomic_store(&ring->done, true);
}

static bool has_file(const struct process *process)
{
	return process != NULL && !process->removed &&
	       (process->stream != NULL || process->bytes > 0);
}

static int start_plan(struct ring *ring)
{
	const struct processes *all = ring->all;

	free(ring->files);
	ring->file_count = 0;
	ring->files = calloc(all->by_serial_size, sizeof(*ring->files));
	if (ring->files == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < all->by_serial_size; i++) {
		const struct process *process = all->by_serial[i];
		struct file *file = &ring->files[ring->file_count];

		if (!has_file(process))
			continue;
		file->size = process->stream != NULL ? stream_bytes(process->stream)
						     : process->bytes;
		processes_file_name(process, file->name);
		ring->file_count++;
	}
	ring->process = NULL;
	start_task(ring);
	return 0;
}

/* What ended before the cut goes, unless its heap is needed. */
static void begin_cut(struct ring *ring)
{
	const struct processes *all = ring->all;

	ring->cut = ring->planned;
	ring->next = 0;
	for (uint32_t i = 0; i < all->by_serial_size; i++) {
		struct process *process = all->by_serial[i];

		if (process != NULL && !process->alive && process->end_tick <= ring->cut)
			process->early = true;
	}
	processes_remove_early(ring->all);
}

static void end_cut(struct ring *ring)
{
	const struct processes *all = ring->all;

	ring->last_cut = ring->cut;
	ring->cut = 0;
	ring->heap_bytes = 0;
	ring->postponed = 0;
	for (uint32_t i = 0; i < all->by_serial_size; i++)
		if (all->by_serial[i] != NULL && !all->by_serial[i]->removed)
			ring->heap_bytes += all->by_serial[i]->heap_bytes;
}

static bool is_cut(const struct ring *ring, const struct process *process)
{
	return has_file(process) && process->header.start_tick <= ring->cut;
}

static int make_room(struct ring *ring)
{
	struct compact_child *children;

	if (ring->children_size == ring->all->by_serial_size)
		return 0;
	children = realloc(ring->children, ring->all->by_serial_size * sizeof(*children));
	if (children == NULL)
		return -ENOMEM;
	ring->children = children;
	ring->children_size = ring->all->by_serial_size;
	return 0;
}

/* What was taken up to now is in the file, and so is all that was counted. */
static int start_stream(struct ring *ring, struct process *process)
{
	uint64_t awaited = AWAITED_SECONDS * ring->all->session->tick_hz;
	int rc = make_room(ring);

	if (rc == 0 && process->stream != NULL)
		rc = taking_ahead(ring->all, process);
	if (rc == 0 && process->stream != NULL)
		rc = stream_flush(process->stream);
	if (rc != 0)
		return rc;
	ring->process = process;
	ring->looked = 0;
	ring->request = (struct compact_request){.dirfd = ring->all->dirfd,
		.name = processes_file_name(process, ring->name),
		.size = process->stream != NULL ? stream_bytes(process->stream) : process->bytes,
		.cut = ring->cut,
		.previous = process->begin_tick,
		.awaited = ring->cut > awaited ? ring->cut - awaited : 1,
		.children = ring->children,
		.child_count = processes_children(ring->all, process, ring->children)};
	process->begin_tick = ring->cut;
	start_task(ring);
	return 0;
}

/* The new file takes its place. What was written to the old one meanwhile follows. */
static int finish_stream(struct ring *ring)
{
	struct process *process = ring->process;
	uint64_t bytes = process->stream != NULL ? stream_bytes(process->stream) : process->bytes;
	int rc = compact_copy(&ring->request, &ring->result, bytes);

	if (rc != 0) {
		compact_drop(&ring->request, &ring->result);
		return rc;
	}
	if (process->stream != NULL)
		rc = compact_go_on(&ring->request, &ring->result, process->stream);
	else
		rc = compact_close(&ring->request, &ring->result, &bytes);
	if (rc != 0)
		return rc;
	if (process->stream == NULL) {
		ring->all->bytes += bytes - process->bytes;
		process->bytes = bytes;
	}
	process->heap_bytes = ring->result.heap_bytes;
	processes_overwrite(ring->all, process, ring->result.events, ring->result.syscalls);
	ring->next = process->serial + 1;
	return 0;
}

static int finish_plan(struct ring *ring)
{
	if (ring->planned != 0)
		begin_cut(ring);
	else
		ring->postponed = newest_bytes(ring) + ring->limit / 4;
	return 0;
}

/* What the worker has done. */
static int finish_task(struct ring *ring)
{
	if (ring->threaded)
		pthread_join(ring->thread, NULL);
	ring->working = false;
	if (ring->rc != 0)
		return ring->rc;
	return ring->process == NULL ? finish_plan(ring) : finish_stream(ring);
}

/* The next task of a cut, or the first if there are more bytes than so many. */
static int next_task(struct ring *ring, uint64_t bytes)
{
	const struct processes *all = ring->all;

	if (ring->cut == 0)
		return newest_bytes(ring) > bytes ? start_plan(ring) : 0;
	while (ring->next < all->by_serial_size && !is_cut(ring, all->by_serial[ring->next]))
		ring->next++;
	if (ring->next == all->by_serial_size) {
		end_cut(ring);
		return 0;
	}
	struct process *process = all->by_serial[ring->next];
	if (process->stream == NULL || ring->looked == process->serial)
		return start_stream(ring, process);
	/* The collector takes the ready pages before it comes back. */
	ring->looked = process->serial;
	return taking_look_ahead(ring->all, process);
}

static void note_error(struct ring *ring, int rc)
{
	if (rc != 0 && ring->all->error == 0)
		ring->all->error = rc;
}

/* Half as much again as is kept, so that a byte is copied twice on average; with a large heap, which
 * is written anew each time, more. */
static uint64_t due_bytes(const struct ring *ring)
{
	uint64_t more = ring->limit > ring->heap_bytes ? ring->limit : ring->heap_bytes;

	return ring->postponed != 0 ? ring->postponed : ring->limit + more / 2;
}

void ring_round(struct ring *ring)
{
	if (ring == NULL || (ring->working && !atomic_load(&ring->done)))
		return;
	if (ring->working)
		note_error(ring, finish_task(ring));
	if (ring->all->error == 0)
		note_error(ring, next_task(ring, due_bytes(ring)));
}

void ring_end(struct ring *ring)
{
	bool last = false;

	while (ring != NULL) {
		if (ring->working)
			note_error(ring, finish_task(ring));
		if (ring->all->error != 0)
			return;
		if (ring->cut == 0 && last)
			return;
		last = last || ring->cut == 0;
		note_error(ring, next_task(ring, ring->limit));
	}
}

void ring_close(struct ring *ring)
{
	if (ring == NULL)
		return;
	if (ring->working)
		finish_task(ring);
	free(ring->children);
	free(ring->files);
	free(ring);
}
