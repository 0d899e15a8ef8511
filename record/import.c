/* SPDX-License-Identifier: MIT
 *
 * See import.h. All streams are made in a folder beside the trace first, and put into their places
 * when all of them are good; the raw files go last. So an import that is interrupted anywhere is
 * done again by the next one. A lock on the directory keeps two imports apart.
 */
#include "import.h"

#include "manifest.h"
#include "output.h"
#include "raw_reader.h"
#include "running.h"
#include "stranger.h"
#include "stream.h"
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define FOLDER ".import"
#define RATE_NS UINT64_C(5000000) /* two pairs of clocks this far apart tell the rate */
#define BOOT_NS INT64_C(2000000000)
#define HZ_LEAST UINT64_C(1000000)

struct raw_file {
	char *name;
	uint32_t pid;
	uint32_t serial;
	bool runs;
	bool begun;
	bool rated; /* its header says how fast ticks pass */
	uint64_t bytes;
	struct process process; /* for session.json */
	struct hl_raw raw;
	uint64_t damage_offset;
};

struct import {
	const char *path;
	const char *command;
	int dirfd;
	int folder;
	struct raw_file *files;
	size_t count;
	json_t *session; /* of what was imported before, NULL if nothing was */
};

static int fail(const struct import *import, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int fail(const struct import *import, const char *format, ...)
{
	char line[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	return tool_fail(TOOL_UNREADABLE, import->command, "%s", line);
}

/* ---- what there is --------------------------------------------------------------------------- */

static bool is_raw(const char *name)
{
	size_t length = strlen(name), suffix = strlen(HL_RAW_SUFFIX);

	return name[0] != '.' && length > suffix &&
	       strcmp(name + length - suffix, HL_RAW_SUFFIX) == 0;
}

static bool has_any(int dirfd)
{
	DIR *list = output_list(dirfd);
	struct dirent *entry;
	bool found = false;

	while (list != NULL && !found && (entry = readdir(list)) != NULL)
		found = is_raw(entry->d_name);
	if (list != NULL)
		closedir(list);
	return found;
}

static int add_file(struct import *import, const char *name)
{
	bool full = (import->count & (import->count - 1)) == 0;
	struct raw_file file = {0};
	char again[64];

	if (sscanf(name, "%10u.%10u", &file.pid, &file.serial) != 2)
		file.serial = 0;
	snprintf(again, sizeof(again), "%u.%u" HL_RAW_SUFFIX, file.pid, file.serial);
	if (file.serial == 0 || strcmp(name, again) != 0)
		return fail(import, "%s/%s: a raw file is called <pid>.<serial>" HL_RAW_SUFFIX,
			import->path, name);
	if (full) {
		size_t size = import->count != 0 ? import->count * 2 : 1;
		void *files = realloc(import->files, size * sizeof(file));

		if (files == NULL)
			return fail(import, "%s: not enough memory", import->path);
		import->files = files;
	}
	file.name = strdup(name);
	if (file.name == NULL)
		return fail(import, "%s: not enough memory", import->path);
	import->files[import->count++] = file;
	return TOOL_OK;
}

static int by_serial(const void *a, const void *b)
{
	const struct raw_file *left = a, *right = b;

	if (left->serial != right->serial)
		return left->serial < right->serial ? -1 : 1;
	return strcmp(left->name, right->name);
}

static int list_files(struct import *import)
{
	DIR *list = output_list(import->dirfd);
	struct dirent *entry;
	int code = TOOL_OK;

	if (list == NULL)
		return fail(import, "%s: %s", import->path, strerror(errno));
	while (code == TOOL_OK && (entry = readdir(list)) != NULL)
		if (is_raw(entry->d_name))
			code = add_file(import, entry->d_name);
	closedir(list);
	if (code == TOOL_OK && import->count > 0)
		qsort(import->files, import->count, sizeof(*import->files), by_serial);
	return code;
}

/* Serials link processes with their parents: none may be two processes'. */
static const char *find_clash(const struct import *import, const struct raw_file *file)
{
	json_t *streams = json_object_get(import->session, "streams"), *entry;
	char own[64];
	size_t i;

	snprintf(own, sizeof(own), "%u.%u" HL_TRACE_SUFFIX, file->pid, file->serial);
	json_array_foreach(streams, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "file"));

		if (json_integer_value(json_object_get(entry, "serial")) ==
				(json_int_t)file->serial &&
			name != NULL && strcmp(name, own) != 0)
			return name;
	}
	if (file > import->files && file[-1].serial == file->serial)
		return file[-1].name;
	return NULL;
}

/* What `record` wrote has serials of its own. */
static int read_session(struct import *import)
{
	int fd = openat(import->dirfd, HL_TRACE_SESSION_FILE, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return errno == ENOENT ? TOOL_OK
				       : fail(import, "%s/" HL_TRACE_SESSION_FILE ": %s",
						 import->path, strerror(errno));
	import->session = json_loadfd(fd, JSON_REJECT_DUPLICATES, NULL);
	close(fd);
	if (json_is_true(json_object_get(import->session, "alone")))
		return TOOL_OK;
	return fail(import,
		"%s: holds both a recording by `record` and raw files (*" HL_RAW_SUFFIX
		"): move these and " HL_RAW_SERIALS " into a directory of their own",
		import->path);
}

/* ---- one file -------------------------------------------------------------------------------- */

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t now_tick(uint32_t clock)
{
	unsigned core;

	return clock == HL_CLOCK_TSC ? __rdtscp(&core) : now_ns(CLOCK_MONOTONIC);
}

static uint64_t rate(uint64_t ticks, uint64_t ns)
{
	double hz = (double)ticks * 1e9 / (double)ns;

	return hz >= (double)HZ_LEAST && hz < 1e12 ? (uint64_t)hz : 0;
}

/* Whether the machine has not been started anew since. */
static bool is_same_boot(const struct hl_raw *raw)
{
	int64_t then = (int64_t)(raw->realtime_ns - raw->clock_ns);
	int64_t now = (int64_t)(now_ns(CLOCK_REALTIME) - now_ns(CLOCK_MONOTONIC));

	return now - then < BOOT_NS && then - now < BOOT_NS;
}

/* Ticks a second, by two pairs of clocks: those in the file if they are far enough apart, else that
 * of its start and now. 0 if neither tells. */
static uint64_t find_rate(struct raw_reader *reader)
{
	const struct hl_raw *raw = raw_reader_header(reader);
	uint64_t tick = 0, ns = 0, now, tick_now;
	bool pair;

	if (raw->clock == HL_CLOCK_MONOTONIC)
		return 1000000000;
	pair = raw_reader_last_clock(reader, &tick, &ns) && ns > raw->clock_ns &&
	       tick > raw->clock_tick;
	if (pair && ns - raw->clock_ns >= RATE_NS)
		return rate(tick - raw->clock_tick, ns - raw->clock_ns);
	now = now_ns(CLOCK_MONOTONIC);
	tick_now = now_tick(raw->clock);
	if (is_same_boot(raw) && tick_now > raw->clock_tick && now > raw->clock_ns)
		return rate(tick_now - raw->clock_tick, now - raw->clock_ns);
	return pair ? rate(tick - raw->clock_tick, ns - raw->clock_ns) : 0;
}

static uint32_t command_bytes(const struct hl_process *process)
{
	uint32_t length = HL_COMMAND_BYTES - 1;

	while (length > 0 && process->command[length - 1] == '\0')
		length--;
	return length;
}

static int fill_process(struct raw_file *file, struct raw_reader *reader)
{
	const struct hl_raw *raw = raw_reader_header(reader);
	struct process *process = &file->process;
	uint64_t hz = find_rate(reader);

	memcpy(&file->raw, raw, sizeof(*raw));
	file->rated = hz != 0;
	process->serial = file->serial;
	process->pid = (pid_t)file->pid;
	if (processes_set_command(process, raw->process.command, command_bytes(&raw->process)) != 0)
		return -ENOMEM;
	process->lost = atomic_load(&raw->process.lost);
	process->header = (struct hl_trace_header){
		.flags = raw->process.elsewhere != 0 ? HL_TRACE_ELSEWHERE : 0,
		.source = HL_TRACE_TARGET,
		.mode = raw->process.mode,
		.policy = raw->process.policy,
		.clock = (uint8_t)raw->clock,
		.pid = file->pid,
		.ppid = raw->process.ppid,
		.serial = file->serial,
		.parent_serial = raw->process.parent_serial,
		.fork_id = raw->process.fork_id,
		.start_tick = raw->process.start_tick,
		.clock_tick = raw->clock_tick,
		.clock_ns = raw->clock_ns,
		.realtime_ns = raw->realtime_ns,
		.tick_hz = hz != 0 ? hz : 1000000000,
		.page_bytes = raw->memory_page_bytes,
		.command_bytes = process->command_bytes,
		.end = file->runs                 ? HL_TRACE_END_DETACHED
		       : raw->process.exited != 0 ? HL_TRACE_END_EXIT
						  : HL_TRACE_END_UNKNOWN,
		.end_status = -1,
	};
	return 0;
}

/* The pages into the stream. The reader's own errors are in its words. */
static int copy_pages(
	struct raw_file *file, struct raw_reader *reader, struct stream *stream, uint64_t *end_tick)
{
	const struct raw_page *page;
	int rc;

	while ((rc = raw_reader_next(reader, &page)) > 0) {
		if (page->last_tick > *end_tick && page->count > 0)
			*end_tick = page->last_tick;
		if (page->damage_offset != 0 && file->damage_offset == 0)
			file->damage_offset = page->damage_offset;
		file->process.events += page->events;
		file->process.syscalls += page->syscalls;
		if (page->count == 0)
			continue;
		rc = stream_append_packed(stream, page->tid, page->tick, page->slots, page->count);
		if (rc != 0)
			return rc;
	}
	return rc;
}

static int write_stream(
	const struct import *import, struct raw_file *file, struct raw_reader *reader)
{
	struct process *process = &file->process;
	uint64_t end_tick = file->raw.process.start_tick;
	struct stream *stream;
	bool whole;
	int rc = stream_create(&stream, import->folder, &process->header, process->command);
	int close_rc;

	if (rc != 0)
		return rc;
	rc = copy_pages(file, reader, stream, &end_tick);
	whole = rc == 0 && !file->runs && file->damage_offset == 0 &&
		atomic_load(&file->raw.stopped) == 0;
	close_rc = stream_close(stream, whole, (enum hl_trace_end)process->header.end,
		process->header.end_status, end_tick, process->lost, NULL, 0);
	process->complete = whole && close_rc == 0;
	return rc != 0 ? rc : close_rc;
}

static int read_raw(struct import *import, struct raw_file *file, int fd)
{
	char name[PATH_MAX];
	struct raw_input input = {.fd = fd, .name = name, .latest_tick = UINT64_MAX};
	struct raw_reader *reader = NULL;
	struct hl_raw raw = {0};
	struct stat status;
	int rc;

	snprintf(name, sizeof(name), "%.3000s/%.200s", import->path, file->name);
	if (pread(fd, &raw, sizeof(raw), 0) < 0)
		return fail(import, "%s: %s", name, strerror(errno));
	file->runs = running(fd, file->name, file->pid, raw.process.pid_namespace);
	/* What is written from here on may be seen by half. */
	if (file->runs)
		input.latest_tick = now_tick(raw.clock);
	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
		return fail(import, "%s: not a regular file", name);
	file->bytes = input.size = (uint64_t)status.st_size;
	rc = raw_reader_open(&reader, &input);
	file->begun = rc == 0 && raw_reader_has_begun(reader);
	if (file->begun && (raw_reader_header(reader)->process.pid != file->pid ||
				   raw_reader_header(reader)->process.serial != file->serial))
		rc = fail(import, "%s: offset %zu: it is of process %u.%u", name,
			offsetof(struct hl_raw, process), raw_reader_header(reader)->process.pid,
			raw_reader_header(reader)->process.serial);
	else if (rc != 0)
		rc = fail(import, "%s", raw_reader_error(reader));
	if (rc == 0 && file->begun) {
		rc = fill_process(file, reader);
		if (rc == 0)
			rc = write_stream(import, file, reader);
		if (rc != 0 && raw_reader_error(reader)[0] != '\0')
			rc = fail(import, "%s", raw_reader_error(reader));
		else if (rc != 0)
			rc = fail(import, "%s: importing it: %s", name, strerror(-rc));
	}
	raw_reader_close(reader);
	return rc;
}

static int import_file(struct import *import, struct raw_file *file)
{
	const char *clash = find_clash(import, file);
	int fd, code;

	if (clash != NULL)
		return fail(
			import, "%s/%s: its serial is that of %s", import->path, file->name, clash);
	fd = openat(import->dirfd, file->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return fail(import, "%s/%s: %s", import->path, file->name, strerror(errno));
	code = read_raw(import, file, fd);
	close(fd);
	return code;
}

/* ---- session.json ---------------------------------------------------------------------------- */

static void note(json_t *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Once: a process that still ran may have been imported before. */
static void note(json_t *notes, const char *format, ...)
{
	char line[512];
	va_list arguments;
	json_t *entry;
	size_t i;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	json_array_foreach(notes, i, entry)
	{
		if (strcmp(json_string_value(entry) != NULL ? json_string_value(entry) : "",
			    line) == 0)
			return;
	}
	json_array_append_new(notes, json_string(line));
}

static void add_notes(const struct import *import, json_t *notes)
{
	for (size_t i = 0; i < import->count; i++) {
		const struct raw_file *file = &import->files[i];
		uint32_t stopped = atomic_load(&file->raw.stopped);

		if (!file->begun)
			continue;
		if (stopped != 0)
			note(notes, "%u.%u: its recording stopped early: %s", file->pid,
				file->serial, strerror((int)stopped));
		if (file->damage_offset != 0)
			note(notes,
				"%u.%u wrote over its own records, some are missing (offset %llu)",
				file->pid, file->serial, (unsigned long long)file->damage_offset);
		if (!file->rated)
			note(notes, "%u.%u: no clock tells how long its ticks are, 1 ns is taken",
				file->pid, file->serial);
	}
}

/* argv as execve takes it, of what is joined by NUL; the first word's pointer is the array's. */
static char **split_command(const struct process *process)
{
	uint32_t words = process->command_bytes > 0, at = 0;
	char **argv;

	for (uint32_t i = 0; i < process->command_bytes; i++)
		words += process->command[i] == '\0';
	argv = calloc((size_t)words + 1, sizeof(*argv));
	for (uint32_t i = 0; argv != NULL && i < words; i++) {
		argv[i] = process->command + at;
		at += (uint32_t)strlen(argv[i]) + 1;
	}
	return argv;
}

static struct settings settings_of(const struct hl_raw *raw)
{
	struct settings settings = {
		.policy = (enum hl_policy)raw->process.policy,
		.check = raw->check,
		.given = raw->settings_given,
		.recorded = true,
	};

	for (unsigned i = 0; i < SETTINGS_COUNT; i++)
		settings.value[i] = raw->setting[i];
	return settings;
}

/* As that of a recording whose collector saw these processes. */
static json_t *build_session(const struct import *import, struct process **processes,
	uint32_t count, const struct raw_file *first)
{
	static struct hl_session map;
	static struct collector collector;
	static const struct kernel kernel = {
		.why = "a program that is recorded with LD_PRELOAD alone has no kernel side"};
	struct settings settings = settings_of(&first->raw);
	char **command = split_command(&first->process);
	struct manifest manifest = {
		.collector = &collector,
		.kernel = &kernel,
		.command = command,
		.settings = first->raw.process.mode == HL_MODE_OBSERVE ? NULL : &settings,
		.on_full = "wait",
		.kernel_mode = "off",
	};
	json_t *root;

	if (command == NULL)
		return NULL;
	map.clock = first->raw.clock;
	collector.dirfd = import->dirfd;
	collector.session.map = &map;
	collector.session.tick_hz = first->process.header.tick_hz;
	collector.session.realtime_ns = first->raw.realtime_ns;
	collector.processes.by_serial = processes;
	collector.processes.by_serial_size = count;
	root = manifest_build(&manifest);
	json_object_set_new(root, "alone", json_true());
	json_object_set_new(root, "options", json_object());
	json_object_set_new(root, "host", json_null());
	free(command);
	return root;
}

static bool has_file(json_t *streams, const char *name)
{
	json_t *entry;
	size_t i;

	json_array_foreach(streams, i, entry)
	{
		const char *other = json_string_value(json_object_get(entry, "file"));

		if (other != NULL && strcmp(other, name) == 0)
			return true;
	}
	return false;
}

static int by_json_serial(const void *a, const void *b)
{
	const json_int_t left = json_integer_value(json_object_get(*(json_t *const *)a, "serial"));
	const json_int_t right = json_integer_value(json_object_get(*(json_t *const *)b, "serial"));

	return (left > right) - (left < right);
}

/* Those imported before and those imported now, which replace what was a process that ran. */
static json_t *merge_streams(json_t *before, json_t *now)
{
	size_t count = 0, most = json_array_size(before) + json_array_size(now), i;
	json_t **list = calloc(most + 1, sizeof(json_t *)), *entry, *merged = json_array();

	if (list == NULL)
		return merged;
	json_array_foreach(now, i, entry) list[count++] = entry;
	json_array_foreach(before, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "file"));

		if (name != NULL && !has_file(now, name))
			list[count++] = entry;
	}
	qsort(list, count, sizeof(*list), by_json_serial);
	for (i = 0; i < count; i++)
		json_array_append(merged, list[i]);
	free(list);
	return merged;
}

static bool all_complete(json_t *streams)
{
	json_t *entry;
	size_t i;

	json_array_foreach(streams, i, entry)
	{
		if (!json_is_true(json_object_get(entry, "complete")))
			return false;
	}
	return true;
}

static void finish_session(const struct import *import, json_t *root, json_t *streams)
{
	json_int_t unrecorded = json_integer_value(json_object_get(root, "unrecorded_processes"));
	json_t *notes = json_object_get(root, "notes");

	for (size_t i = 0; i < import->count; i++)
		unrecorded += !import->files[i].begun && !import->files[i].runs;
	json_object_set_new(root, "unrecorded_processes", json_integer(unrecorded));
	json_object_set_new(root, "complete", json_boolean(all_complete(streams)));
	json_object_set_new(root, "streams", streams);
	if (!json_is_array(notes)) {
		json_object_set_new(root, "notes", json_array());
		notes = json_object_get(root, "notes");
	}
	add_notes(import, notes);
}

static int write_session(struct import *import)
{
	struct process **processes = calloc(import->count, sizeof(struct process *));
	const struct raw_file *first = NULL;
	json_t *now = NULL, *root = NULL, *streams;
	int rc = processes == NULL ? -ENOMEM : 0;

	for (size_t i = 0; rc == 0 && i < import->count; i++) {
		processes[i] = import->files[i].begun ? &import->files[i].process : NULL;
		if (first == NULL && processes[i] != NULL)
			first = &import->files[i];
	}
	if (rc == 0 && first != NULL) {
		now = build_session(import, processes, (uint32_t)import->count, first);
		rc = now == NULL ? -ENOMEM : 0;
	}
	if (rc == 0 && (now != NULL || import->session != NULL)) {
		root = json_incref(import->session != NULL ? import->session : now);
		streams = merge_streams(json_object_get(import->session, "streams"),
			json_object_get(now, "streams"));
		finish_session(import, root, streams);
		rc = manifest_replace(import->dirfd, root);
	}
	json_decref(root);
	json_decref(now);
	free(processes);
	return rc;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void remove_folder(int dirfd)
{
	int fd = openat(dirfd, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct dirent *entry;
	DIR *list = fd < 0 ? NULL : fdopendir(fd);

	while (list != NULL && (entry = readdir(list)) != NULL)
		if (entry->d_name[0] != '.')
			unlinkat(fd, entry->d_name, 0);
	if (list != NULL)
		closedir(list);
	unlinkat(dirfd, FOLDER, AT_REMOVEDIR);
}

static int open_folder(struct import *import)
{
	struct stat status;

	remove_folder(import->dirfd); /* of an import that was killed */
	if (mkdirat(import->dirfd, FOLDER, 0700) == 0) {
		import->folder = openat(
			import->dirfd, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		/* Who owns the directory can put another in its place. */
		if (import->folder >= 0 && fstat(import->folder, &status) == 0 &&
			!stranger_owns(&status))
			return TOOL_OK;
		errno = import->folder >= 0 ? EPERM : errno;
	}
	return fail(import,
		"%s: its raw files (*" HL_RAW_SUFFIX ") must be imported once, in a directory that "
		"can be written: %s",
		import->path, strerror(errno));
}

static int publish_stream(const struct import *import, const struct raw_file *file)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "%u.%u" HL_TRACE_SUFFIX, file->pid, file->serial);
	fd = openat(import->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	output_hand_over(import->dirfd, fd);
	close(fd);
	return renameat(import->folder, name, import->dirfd, name) != 0 ? -errno : 0;
}

static int publish(struct import *import)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < import->count; i++)
		if (import->files[i].begun)
			rc = publish_stream(import, &import->files[i]);
	if (rc == 0)
		rc = write_session(import);
	/* What replaces the raw files is on the disk before they go. */
	if (rc == 0 && syncfs(import->dirfd) != 0)
		rc = -errno;
	for (size_t i = 0; rc == 0 && i < import->count; i++)
		if (!import->files[i].runs &&
			unlinkat(import->dirfd, import->files[i].name, 0) != 0)
			rc = -errno;
	return rc == 0 ? TOOL_OK : fail(import, "importing %s: %s", import->path, strerror(-rc));
}

static const char *plural(size_t count)
{
	return count == 1 ? "" : "es";
}

static void report(const struct import *import)
{
	size_t begun = 0, running = 0;
	uint64_t bytes = 0;
	char size[32], rest[96] = "";

	for (size_t i = 0; i < import->count; i++) {
		const struct raw_file *file = &import->files[i];

		begun += file->begun;
		running += file->begun && file->runs;
		bytes += file->begun ? file->bytes : 0;
	}
	if (running > 0)
		snprintf(rest, sizeof(rest), "; %zu still run%s and %s recorded up to now", running,
			running == 1 ? "s" : "", running == 1 ? "is" : "are");
	tool_fail(TOOL_OK, import->command, "imported %zu process%s, %s of raw files, in %s%s",
		begun, plural(begun), tool_format_size(size, sizeof(size), bytes), import->path,
		rest);
}

static int import_all(struct import *import)
{
	int code = list_files(import);

	if (code != TOOL_OK || import->count == 0)
		return code;
	code = read_session(import);
	if (code == TOOL_OK)
		code = open_folder(import);
	for (size_t i = 0; code == TOOL_OK && i < import->count; i++)
		code = import_file(import, &import->files[i]);
	if (code == TOOL_OK)
		code = publish(import);
	if (import->folder >= 0) {
		close(import->folder);
		remove_folder(import->dirfd);
	}
	if (code == TOOL_OK)
		report(import);
	return code;
}

static void import_free(struct import *import)
{
	for (size_t i = 0; i < import->count; i++) {
		free(import->files[i].name);
		free(import->files[i].process.command);
	}
	free(import->files);
	json_decref(import->session);
}

int import_directory(const char *path, const char *command, bool *found)
{
	struct import import = {.path = path, .command = command, .folder = -1};
	int code = TOOL_OK;
	bool any;

	import.dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	any = import.dirfd >= 0 && has_any(import.dirfd);
	if (found != NULL)
		*found = any;
	if (any) {
		flock(import.dirfd, LOCK_EX);
		code = import_all(&import);
	}
	if (import.dirfd >= 0)
		close(import.dirfd);
	import_free(&import);
	return code;
}
