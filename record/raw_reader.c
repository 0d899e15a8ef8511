/* SPDX-License-Identifier: MIT
 *
 * See raw_reader.h. The pages' headers are read first and put in order, then one page at a time. A
 * process that still runs writes meanwhile: each page counts as it is when its records are read, up
 * to the tick at which reading began, so that no event is there without those that it followed.
 */
#include "raw_reader.h"

#include "heapledger/settings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PID_LIMIT (UINT32_C(1) << 22)
#define CLOCK_PAGES 4 /* looked at from the end for the last clock mark */

struct place {
	uint64_t sequence;
	uint64_t offset;
};

struct raw_reader {
	struct raw_input input;
	struct hl_raw header;
	bool begun;
	struct place *places; /* of the pages, in the order of taking */
	size_t count;
	size_t capacity;
	size_t next;
	struct raw_page page;
	union {
		struct hl_page head;
		uint8_t bytes[HL_PAGE_BYTES];
	} buffer;
	char error[512];
};

static int fail(struct raw_reader *reader, int rc, uint64_t offset, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int fail(struct raw_reader *reader, int rc, uint64_t offset, const char *format, ...)
{
	int at = snprintf(reader->error, sizeof(reader->error),
		"%.300s: offset %llu: ", reader->input.name, (unsigned long long)offset);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reader->error + at, sizeof(reader->error) - (size_t)at, format, arguments);
	va_end(arguments);
	return rc;
}

static int read_at(struct raw_reader *reader, void *to, size_t length, uint64_t offset)
{
	const struct raw_input *input = &reader->input;

	if (offset > input->size || length > input->size - offset)
		return fail(reader, -EBADMSG, offset, "the file ends here");
	if (input->bytes != NULL) {
		memcpy(to, input->bytes + offset, length);
		return 0;
	}
	for (uint8_t *p = to; length > 0;) {
		ssize_t n = pread(input->fd, p, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(reader, -errno, offset, "%s", strerror(errno));
		if (n == 0)
			return fail(reader, -EBADMSG, offset,
				"the file became shorter while it was read");
		p += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static int check_layout(struct raw_reader *reader)
{
	const struct hl_raw *raw = &reader->header;
	uint64_t reserved = atomic_load(&raw->reserved_bytes);

	if (raw->magic != HL_RAW_MAGIC)
		return fail(reader, -EBADMSG, 0, "not a raw file of heapledger");
	if (raw->version != HL_RAW_VERSION)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, version),
			"raw file version %u; this heapledger reads version %u only", raw->version,
			HL_RAW_VERSION);
	if (raw->header_bytes != HL_RAW_HEADER_BYTES || raw->page_bytes != HL_PAGE_BYTES)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, header_bytes),
			"header and pages must be of %d bytes", HL_PAGE_BYTES);
	if (reserved < HL_RAW_HEADER_BYTES || reserved % HL_PAGE_BYTES != 0)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, reserved_bytes),
			"not a whole number of pages");
	if (reserved > reader->input.size)
		return fail(reader, -EBADMSG, reader->input.size,
			"the file ends here, and %llu bytes are missing",
			(unsigned long long)(reserved - reader->input.size));
	return 0;
}

static int check_values(struct raw_reader *reader)
{
	const struct hl_raw *raw = &reader->header;
	const size_t process = offsetof(struct hl_raw, process);

	if (raw->clock > HL_CLOCK_TSC)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, clock), "unknown clock");
	if (raw->memory_page_bytes == 0 ||
		(raw->memory_page_bytes & (raw->memory_page_bytes - 1)) != 0)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, memory_page_bytes),
			"no power of two");
	if (raw->setting_count != SETTINGS_COUNT)
		return fail(reader, -EBADMSG, offsetof(struct hl_raw, setting_count),
			"%u settings; this heapledger knows %u", raw->setting_count,
			(unsigned)SETTINGS_COUNT);
	if (raw->process.pid == 0 || raw->process.pid >= PID_LIMIT)
		return fail(reader, -EBADMSG, process + offsetof(struct hl_process, pid),
			"not a process id");
	if (atomic_load(&raw->process.serial) == 0 ||
		atomic_load(&raw->process.serial) > INT32_MAX ||
		raw->process.parent_serial >= atomic_load(&raw->process.serial))
		return fail(reader, -EBADMSG, process + offsetof(struct hl_process, serial),
			"not a serial, or not higher than the parent's");
	if (raw->process.policy > HL_POLICY_mmap)
		return fail(reader, -EBADMSG, process + offsetof(struct hl_process, policy),
			"unknown policy");
	if (raw->process.mode > HL_MODE_OBSERVE)
		return fail(reader, -EBADMSG, process + offsetof(struct hl_process, mode),
			"unknown mode");
	if (raw->process.command[HL_COMMAND_BYTES - 1] != '\0')
		return fail(reader, -EBADMSG, process + offsetof(struct hl_process, command),
			"the command does not end");
	return 0;
}

static int read_header(struct raw_reader *reader)
{
	static const struct hl_raw nothing;
	int rc;

	if (reader->input.size == 0)
		return 0;
	rc = read_at(reader, &reader->header, sizeof(reader->header), 0);
	if (rc != 0)
		return rc;
	if (memcmp(&reader->header, &nothing, sizeof(nothing)) == 0)
		return 0;
	/* Killed while it filled in the header, but what is there is right. */
	if (reader->header.magic == 0 && reader->header.process.state == HL_PROCESS_FREE)
		return 0;
	rc = check_layout(reader);
	if (rc == 0 && atomic_load(&reader->header.process.state) != HL_PROCESS_LIVE)
		return atomic_load(&reader->header.process.state) == HL_PROCESS_FREE
			       ? 0
			       : fail(reader, -EBADMSG, offsetof(struct hl_raw, process),
					 "unknown state of the process");
	if (rc == 0)
		rc = check_values(reader);
	reader->begun = rc == 0;
	return rc;
}

static int add_place(struct raw_reader *reader, const struct hl_page *page, uint64_t offset)
{
	if (reader->count == reader->capacity) {
		size_t capacity = reader->capacity != 0 ? reader->capacity * 2 : 64;
		void *places = realloc(reader->places, capacity * sizeof(*reader->places));

		if (places == NULL)
			return fail(reader, -ENOMEM, offset, "not enough memory");
		reader->places = places;
		reader->capacity = capacity;
	}
	reader->places[reader->count++] = (struct place){page->sequence, offset};
	return 0;
}

static int check_page(struct raw_reader *reader, const struct hl_page *page, uint64_t offset)
{
	uint32_t state = atomic_load(&page->state);

	if (state != HL_PAGE_OWNED && state != HL_PAGE_READY)
		return fail(reader, -EBADMSG, offset, "unknown state of a page");
	if (atomic_load(&page->used) > HL_PAGE_SLOTS)
		return fail(reader, -EBADMSG, offset + offsetof(struct hl_page, used),
			"more records than a page holds");
	if (page->serial != atomic_load(&reader->header.process.serial))
		return fail(reader, -EBADMSG, offset + offsetof(struct hl_page, serial),
			"a page of another process");
	return 0;
}

/* What was never written may be a hole however large. */
static uint64_t skip_hole(const struct raw_reader *reader, uint64_t offset)
{
	off_t data;

	if (reader->input.bytes != NULL)
		return offset;
	data = lseek(reader->input.fd, (off_t)offset, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? UINT64_MAX : offset;
	return (uint64_t)data - (uint64_t)data % HL_PAGE_BYTES;
}

static int scan_pages(struct raw_reader *reader)
{
	uint64_t end = atomic_load(&reader->header.reserved_bytes);

	for (uint64_t offset = HL_RAW_HEADER_BYTES; offset < end; offset += HL_PAGE_BYTES) {
		struct hl_page page;
		int rc;

		offset = skip_hole(reader, offset);
		if (offset >= end)
			break;
		rc = read_at(reader, &page, sizeof(page), offset);
		if (rc == 0 && atomic_load(&page.state) == HL_PAGE_FREE)
			continue;
		if (rc == 0)
			rc = check_page(reader, &page, offset);
		if (rc == 0)
			rc = add_place(reader, &page, offset);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int by_sequence(const void *a, const void *b)
{
	const struct place *left = a, *right = b;

	if (left->sequence != right->sequence)
		return left->sequence < right->sequence ? -1 : 1;
	return left->offset < right->offset ? -1 : left->offset > right->offset;
}

int raw_reader_open(struct raw_reader **out, const struct raw_input *input)
{
	struct raw_reader *reader = calloc(1, sizeof(*reader));
	int rc;

	*out = reader;
	if (reader == NULL)
		return -ENOMEM;
	reader->input = *input;
	rc = read_header(reader);
	if (rc == 0 && reader->begun)
		rc = scan_pages(reader);
	if (rc == 0 && reader->count > 0)
		qsort(reader->places, reader->count, sizeof(*reader->places), by_sequence);
	return rc;
}

bool raw_reader_has_begun(const struct raw_reader *reader)
{
	return reader->begun;
}

const struct hl_raw *raw_reader_header(const struct raw_reader *reader)
{
	return &reader->header;
}

static bool is_timed(unsigned kind)
{
	return kind == HL_PACKED_TICK || kind == HL_PACKED_TICK_BACK ||
	       (kind >= HL_KIND_brk && kind != HL_KIND_realloc_begin);
}

static void count_events(struct raw_page *page, const struct hl_packed *slot, unsigned kind)
{
	/* Words lie as in record.h, but for the first two, which change places. */
	const size_t cause = offsetof(struct hl_syscall_record, cause) / sizeof(uint64_t);

	if (kind < HL_KIND_brk) {
		page->events++;
	} else if (kind <= HL_KIND_other) {
		uint64_t reason = slot[cause / 2].word[cause % 2] >> 8 & 0xff;

		page->events += reason != HL_REASON_recorder;
		page->syscalls += reason != HL_REASON_recorder;
	}
}

/* Records up to the first that is none, is cut off, or is too late. */
static void walk(const struct raw_reader *reader, struct raw_page *page, uint32_t used,
	uint64_t slots_offset)
{
	uint64_t latest = reader->input.latest_tick;
	uint32_t at = 0;

	while (at < used && page->last_tick <= latest) {
		const struct hl_packed *slot = &page->slots[at];
		unsigned kind = hl_packed_kind(slot->word[0]);
		unsigned length = hl_packed_slots(slot->word[0]);

		if (length == 0 || length > used - at) {
			page->damage_offset = slots_offset + at * sizeof(*slot);
			break;
		}
		if (is_timed(kind) && slot->word[1] > latest)
			break;
		if (is_timed(kind) && slot->word[1] > page->last_tick)
			page->last_tick = slot->word[1];
		count_events(page, slot, kind);
		at += length;
	}
	page->count = at;
}

static int read_page(struct raw_reader *reader, const struct place *place)
{
	const struct hl_page *head = &reader->buffer.head;
	int rc = read_at(reader, reader->buffer.bytes, HL_PAGE_BYTES, place->offset);

	if (rc == 0)
		rc = check_page(reader, head, place->offset);
	if (rc != 0)
		return rc;
	reader->page = (struct raw_page){
		.tid = head->tid,
		.tick = head->tick,
		.slots = (const struct hl_packed *)(head + 1),
		.last_tick = head->tick,
	};
	walk(reader, &reader->page, atomic_load(&head->used), place->offset + sizeof(*head));
	return 0;
}

bool raw_reader_last_clock(struct raw_reader *reader, uint64_t *tick, uint64_t *ns)
{
	bool found = false;

	for (size_t i = reader->count; !found && i-- > 0 && reader->count - i <= CLOCK_PAGES;) {
		const struct raw_page *page = &reader->page;

		if (read_page(reader, &reader->places[i]) != 0)
			return false;
		for (uint32_t at = 0; at < page->count;
			at += hl_packed_slots(page->slots[at].word[0])) {
			if (hl_packed_kind(page->slots[at].word[0]) != HL_KIND_clock)
				continue;
			*tick = page->slots[at].word[1];
			*ns = page->slots[at + 1].word[0];
			found = true;
		}
	}
	return found;
}

int raw_reader_next(struct raw_reader *reader, const struct raw_page **page)
{
	int rc;

	if (reader->next == reader->count)
		return 0;
	rc = read_page(reader, &reader->places[reader->next++]);
	*page = &reader->page;
	return rc != 0 ? rc : 1;
}

const char *raw_reader_error(const struct raw_reader *reader)
{
	return reader != NULL ? reader->error : "not enough memory";
}

void raw_reader_close(struct raw_reader *reader)
{
	if (reader == NULL)
		return;
	free(reader->places);
	free(reader);
}
