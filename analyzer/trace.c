/* SPDX-License-Identifier: MIT
 *
 * Opens a trace directory: finds its streams, checks their headers, and puts them on one time axis.
 * A missing or unreadable session.json is a note, not an error: the streams tell all that matters.
 */
#include "trace.h"

#include "heapledger/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(struct trace *trace, int rc, const char *path, const char *what)
{
	snprintf(trace->error, sizeof(trace->error), "%.300s: %.300s", path, what);
	return rc;
}

static bool is_stream_name(const char *name)
{
	size_t length = strlen(name), suffix = strlen(HL_TRACE_SUFFIX);
	return name[0] != '.' && length > suffix &&
	       !strcmp(name + length - suffix, HL_TRACE_SUFFIX);
}

/* Names come from whoever made the directory, and go into tables. */
static bool is_plain(const char *name)
{
	return name[strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				 "._-")] == '\0';
}

int trace_stream_open(struct trace *trace, const struct trace_stream *stream,
	struct stream_reader **reader, int *fd)
{
	struct stat status;
	*reader = NULL;
	*fd = open(stream->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0 || fstat(*fd, &status))
		return fail(trace, -errno, stream->path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return fail(trace, -EBADMSG, stream->path, "not a regular file");
	struct stream_input input = {
		.fd = *fd, .size = (uint64_t)status.st_size, .name = stream->path};
	return stream_reader_open(reader, &input);
}

int trace_stream_close(struct trace *trace, struct stream_reader *reader, int fd, int rc)
{
	const char *error = rc == -ENOMEM ? "not enough memory" : stream_reader_error(reader);
	if (rc < 0 && !trace->error[0])
		snprintf(trace->error, sizeof(trace->error), "%s", error);
	stream_reader_close(reader);
	if (fd >= 0)
		close(fd);
	return rc < 0 ? rc : 0;
}

int trace_stream_read(
	struct trace *trace, const struct trace_stream *stream, trace_take *take, void *context)
{
	struct stream_reader *reader = NULL;
	const struct stream_event *event;
	int fd = -1, rc = trace_stream_open(trace, stream, &reader, &fd);
	while (!rc && (rc = stream_reader_next(reader, &event)) > 0)
		rc = take(context, event);
	return trace_stream_close(trace, reader, fd, rc);
}

static int read_clock(
	struct trace *trace, struct trace_stream *stream, struct stream_reader *reader)
{
	const struct hl_trace_header *header = &stream->info.header;
	const struct stream_event *event;
	int rc = clock_add(&stream->clock, header->clock_tick, header->clock_ns);

	stream_reader_rewind(reader, 0);
	while (!rc && (rc = stream_reader_next(reader, &event)) > 0) {
		const struct hl_call_record *call = &event->record.call;
		if (hl_kind_of(call->kind_addr) == HL_KIND_begin)
			stream->begin_tick = call->tick;
		rc = hl_kind_of(call->kind_addr) == HL_KIND_clock
			     ? clock_add(&stream->clock, call->tick, call->size)
			     : 0;
	}
	if (rc == -ENOMEM)
		return fail(trace, rc, stream->path, "not enough memory");
	if (rc)
		return rc;
	clock_finish(&stream->clock, header->tick_hz);
	return 0;
}

static int read_stream(struct trace *trace, struct trace_stream *stream)
{
	struct stream_reader *reader;
	int fd;
	int rc = trace_stream_open(trace, stream, &reader, &fd);
	if (!rc) {
		stream->info = *stream_reader_info(reader);
		uint32_t bytes = stream->info.header.command_bytes;
		stream->command = calloc(1, (size_t)bytes + 1);
		if (stream->command)
			memcpy(stream->command, stream->info.command, bytes);
		stream->info.command = stream->command;
		rc = stream->command ? read_clock(trace, stream, reader)
				     : fail(trace, -ENOMEM, stream->path, "not enough memory");
	}
	return trace_stream_close(trace, reader, fd, rc);
}

static void stream_free(struct trace_stream *stream)
{
	free(stream->name);
	free(stream->path);
	free(stream->command);
	clock_free(&stream->clock);
}

static int add_stream(struct trace *trace, const char *name)
{
	struct trace_stream stream = {0};
	if (asprintf(&stream.path, "%s/%s", trace->path, name) < 0)
		stream.path = NULL;
	stream.name = strndup(name, strlen(name) - strlen(HL_TRACE_SUFFIX));
	int rc = -ENOMEM;
	if (stream.path && stream.name)
		rc = read_stream(trace, &stream);
	bool kernel = stream.info.header.source == HL_TRACE_KERNEL;
	struct trace_stream **list = kernel ? &trace->kernel : &trace->streams;
	size_t *count = kernel ? &trace->kernel_count : &trace->stream_count;
	struct trace_stream *grown = NULL;
	if (!rc) {
		/* Powers of two: a build can leave tens of thousands of streams. */
		bool full = !(*count & (*count - 1));
		grown = full ? realloc(*list, (*count ? *count * 2 : 1) * sizeof(stream)) : *list;
		rc = grown ? 0 : fail(trace, -ENOMEM, trace->path, "not enough memory");
	}
	if (rc) {
		stream_free(&stream);
		return rc;
	}
	*list = grown;
	grown[(*count)++] = stream;
	return 0;
}

static int by_serial(const void *left, const void *right)
{
	const struct trace_stream *a = left, *b = right;
	if (a->info.header.serial != b->info.header.serial)
		return a->info.header.serial < b->info.header.serial ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* `record` was killed between creating the file and writing to it. */
static bool is_empty(DIR *directory, const char *name)
{
	struct stat status;
	return !fstatat(dirfd(directory), name, &status, 0) && S_ISREG(status.st_mode) &&
	       !status.st_size;
}

static int scan_stream(struct trace *trace, DIR *directory, const char *name)
{
	if (!is_plain(name))
		return fail(trace, -EBADMSG, name,
			"is no name of a stream (letters, digits, . _ -)");
	if (!is_empty(directory, name))
		return add_stream(trace, name);
	trace->empty_count++;
	return 0;
}

static int scan_directory(struct trace *trace)
{
	DIR *directory = opendir(trace->path);
	if (!directory)
		return fail(trace, -errno, trace->path, strerror(errno));
	int rc = 0;
	for (struct dirent *entry; !rc && (entry = readdir(directory));)
		if (is_stream_name(entry->d_name))
			rc = scan_stream(trace, directory, entry->d_name);
	closedir(directory);
	return rc;
}

static void read_session(struct trace *trace)
{
	char *path;
	if (asprintf(&path, "%s/" HL_TRACE_SESSION_FILE, trace->path) < 0)
		return;
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && !fstat(fd, &status) && S_ISREG(status.st_mode))
		trace->session = json_loadfd(fd, JSON_REJECT_DUPLICATES, NULL);
	if (fd >= 0)
		close(fd);
	free(path);
	const char *schema = json_string_value(json_object_get(trace->session, "schema"));
	if (!schema || strcmp(schema, HL_TRACE_SESSION_SCHEMA)) {
		json_decref(trace->session);
		trace->session = NULL;
	}
}

bool trace_has_times(const struct trace_stream *stream)
{
	return stream->info.header.clock != HL_CLOCK_EVENTS;
}

const json_t *trace_imported(const struct trace *trace)
{
	const json_t *imported = json_object_get(trace->session, "imported");

	return json_is_object(imported) ? imported : NULL;
}

uint64_t trace_overwritten(const struct trace *trace)
{
	json_int_t count =
		json_integer_value(json_object_get(trace->session, "overwritten_events"));

	return count > 0 ? (uint64_t)count : 0;
}

/* The first stream of this serial, or of the next one there is. */
static size_t find_serial(const struct trace *trace, json_int_t serial)
{
	size_t low = 0, high = trace->stream_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if ((json_int_t)trace->streams[middle].info.header.serial < serial)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool has_stream(const struct trace *trace, const char *file, json_int_t serial)
{
	size_t low = find_serial(trace, serial);
	for (; low < trace->stream_count; low++) {
		const struct trace_stream *stream = &trace->streams[low];
		size_t length = strlen(stream->name);
		if ((json_int_t)stream->info.header.serial != serial)
			break;
		if (!strncmp(file, stream->name, length) && !strcmp(file + length, HL_TRACE_SUFFIX))
			return true;
	}
	return false;
}

/* A trace that was copied in part must not pass for a whole one. */
static void find_missing(struct trace *trace)
{
	json_t *listed = json_object_get(trace->session, "streams"), *entry;
	size_t i;
	json_array_foreach(listed, i, entry)
	{
		const char *file = json_string_value(json_object_get(entry, "file"));
		json_int_t serial = json_integer_value(json_object_get(entry, "serial"));
		if (!file || has_stream(trace, file, serial))
			continue;
		if (!trace->missing_count++)
			trace->missing = file;
	}
}

/* A forked copy has its parent's malloc, and may have called none itself. Serials grow. */
static void find_elsewhere(struct trace *trace)
{
	for (size_t i = 0; i < trace->stream_count; i++) {
		const struct hl_trace_header *header = &trace->streams[i].info.header;
		size_t parent = i;
		if (header->parent_serial)
			parent = find_serial(trace, header->parent_serial);
		trace->streams[i].elsewhere = header->flags & HL_TRACE_ELSEWHERE;
		if (parent < i && trace->streams[parent].info.header.serial == header->parent_serial)
			trace->streams[i].elsewhere &= trace->streams[parent].elsewhere;
		if (trace->streams[i].elsewhere && !trace->elsewhere_count++)
			trace->elsewhere = &trace->streams[i];
	}
}

/* Time 0 is where the first stream starts; every stream's clock counts from there. Events have
 * their numbers from 1. */
static void set_origin(struct trace *trace)
{
	uint64_t origin = UINT64_MAX;
	for (size_t i = 0; i < trace->stream_count; i++) {
		struct trace_stream *stream = &trace->streams[i];
		uint64_t first = stream->info.header.start_tick;
		if (stream->info.records && (stream->info.first_tick < first || !first))
			first = stream->info.first_tick;
		if (stream->begin_tick)
			first = stream->begin_tick;
		uint64_t ns = clock_ns(&stream->clock, first);
		if (ns < origin)
			origin = ns;
	}
	bool events = trace->stream_count && !trace_has_times(&trace->streams[0]);
	trace->origin_ns = trace->stream_count && !events ? origin : 0;
	for (size_t i = 0; i < trace->stream_count; i++)
		trace->streams[i].clock.origin_ns = trace->origin_ns;
	for (size_t i = 0; i < trace->kernel_count; i++)
		trace->kernel[i].clock.origin_ns = trace->origin_ns;
}

int trace_open(struct trace *trace, const char *path)
{
	*trace = (struct trace){0};
	trace->path = strdup(path);
	if (!trace->path)
		return fail(trace, -ENOMEM, path, "not enough memory");
	int rc = scan_directory(trace);
	if (rc)
		return rc;
	read_session(trace);
	if (!trace->stream_count && !trace->session)
		return fail(trace, -EBADMSG, path,
			"not a trace directory (no " HL_TRACE_SUFFIX
			" stream and no " HL_TRACE_SESSION_FILE ")");
	if (trace->stream_count)
		qsort(trace->streams, trace->stream_count, sizeof(*trace->streams), by_serial);
	if (trace->kernel_count)
		qsort(trace->kernel, trace->kernel_count, sizeof(*trace->kernel), by_serial);
	find_missing(trace);
	find_elsewhere(trace);
	set_origin(trace);
	return 0;
}

/* A file that grows while we read it is cut off for us, no more. */
static int map_file(const char *path, const uint8_t **bytes, size_t *size)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int rc = fd < 0 || fstat(fd, &status) ? -errno : 0;

	*bytes = NULL;
	*size = 0;
	if (!rc && !S_ISREG(status.st_mode))
		rc = -EINVAL;
	if (!rc && status.st_size) {
		void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED) {
			rc = -errno;
		} else {
			*bytes = map;
			*size = (size_t)status.st_size;
		}
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

int trace_read_stacks(struct trace *trace)
{
	const uint8_t *bytes;
	const char *why;
	uint64_t offset;
	size_t size;
	char *path;

	if (asprintf(&path, "%s/" HL_STACKS_FILE, trace->path) < 0)
		return fail(trace, -ENOMEM, trace->path, "not enough memory");
	int rc = map_file(path, &bytes, &size);
	if (rc == -ENOENT) {
		rc = 0;
	} else if (rc) {
		fail(trace, rc, path, strerror(-rc));
	} else {
		rc = stacks_read(&trace->stacks, bytes, size, &why, &offset);
		if (rc == -ENOMEM)
			fail(trace, rc, path, "not enough memory");
		else if (rc)
			snprintf(trace->error, sizeof(trace->error), "%.300s: offset %llu: %.200s",
				path, (unsigned long long)offset, why);
	}
	if (bytes)
		munmap((void *)bytes, size);
	free(path);
	return rc;
}

void trace_close(struct trace *trace)
{
	stacks_free(&trace->stacks);
	for (size_t i = 0; i < trace->stream_count; i++)
		stream_free(&trace->streams[i]);
	for (size_t i = 0; i < trace->kernel_count; i++)
		stream_free(&trace->kernel[i]);
	free(trace->streams);
	free(trace->kernel);
	free(trace->path);
	json_decref(trace->session);
	*trace = (struct trace){0};
}

/* What session.json knows and no stream does. */
static const char *session_note(
	const struct trace *trace, unsigned *index, char *buffer, size_t length)
{
	json_t *notes = json_object_get(trace->session, "notes");
	json_int_t unrecorded =
		json_integer_value(json_object_get(trace->session, "unrecorded_processes"));
	if (!trace->session && !(*index)--)
		return HL_TRACE_SESSION_FILE
			" is missing or unreadable: the streams are used alone";
	if (!trace_imported(trace) && json_is_false(json_object_get(trace->session, "complete")) &&
		!(*index)--)
		return "the recording was not finished, or could not be written whole";
	if (trace->missing_count && !(*index)--) {
		snprintf(buffer, length,
			"%zu of the streams that " HL_TRACE_SESSION_FILE
			" names %s not there: %.200s%s",
			trace->missing_count, trace->missing_count == 1 ? "is" : "are",
			trace->missing, trace->missing_count == 1 ? "" : " ...");
		return buffer;
	}
	if (trace->empty_count && !(*index)--) {
		snprintf(buffer, length, "%zu of the streams %s empty: nothing was written of %s",
			trace->empty_count, trace->empty_count == 1 ? "is" : "are",
			trace->empty_count == 1 ? "it" : "them");
		return buffer;
	}
	if (unrecorded > 0 && !(*index)--) {
		snprintf(buffer, length, "%lld processes were not recorded", (long long)unrecorded);
		return buffer;
	}
	if (*index < json_array_size(notes)) {
		const char *note = json_string_value(json_array_get(notes, *index));
		return note ? note : "";
	}
	*index -= (unsigned)json_array_size(notes);
	return NULL;
}

const char *trace_program(const struct trace_stream *stream)
{
	const char *slash = strrchr(stream->command, '/');
	const char *name = slash ? slash + 1 : stream->command;
	return *name ? name : "unknown";
}

bool trace_tell_elsewhere(const struct trace *trace, char *buffer, size_t length)
{
	size_t count = trace->elsewhere_count;
	if (!count)
		return false;
	const char *first = trace_program(trace->elsewhere);
	if (trace->stream_count == 1)
		snprintf(buffer, length,
			"%.200s has a malloc of its own, whose calls are not recorded", first);
	else
		snprintf(buffer, length,
			"%zu of %zu process images %s a malloc of %s own, whose calls are not "
			"recorded: %.200s%s",
			count, trace->stream_count, count == 1 ? "has" : "have",
			count == 1 ? "its" : "their", first, count == 1 ? "" : " ...");
	return true;
}

/* The notes are numbered: the session's first, then one about all streams, then one for each stream
 * that has any. */
const char *trace_note(const struct trace *trace, unsigned index, char *buffer, size_t length)
{
	const char *note = session_note(trace, &index, buffer, length);
	if (note)
		return note;
	if (!trace->stream_count && !index--)
		return "no process was recorded: the trace holds no stream";
	if (trace_tell_elsewhere(trace, buffer, length) && !index--)
		return buffer;
	for (size_t i = 0; i < trace->stream_count; i++) {
		const struct trace_stream *stream = &trace->streams[i];
		const struct hl_trace_header *header = &stream->info.header;
		bool incomplete = header->flags & HL_TRACE_INCOMPLETE;
		if ((!incomplete && !header->lost) || index--)
			continue;
		int at = snprintf(buffer, length, "%s" HL_TRACE_SUFFIX ":", stream->name);
		if (incomplete)
			at += snprintf(buffer + at, length - (size_t)at,
				header->mode == HL_MODE_IMPORTED
					? " INCOMPLETE, lines of the log are missing;"
					: " INCOMPLETE, the recording ended early;");
		if (stream->info.tail_bytes)
			at += snprintf(buffer + at, length - (size_t)at,
				" its last %llu bytes, from offset %llu, are cut off and left out;",
				(unsigned long long)stream->info.tail_bytes,
				(unsigned long long)stream->info.tail_offset);
		if (header->lost)
			at += snprintf(buffer + at, length - (size_t)at, " %llu events were lost;",
				(unsigned long long)header->lost);
		buffer[at - 1] = 0;
		return buffer;
	}
	return NULL;
}
