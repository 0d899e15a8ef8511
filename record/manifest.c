/* SPDX-License-Identifier: MIT
 *
 * See manifest.h.
 */
#include "manifest.h"
#include "host.h"
#include "images.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEMPORARY HL_TRACE_SESSION_FILE ".tmp"

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* Arguments need not be UTF-8, JSON has to be. */
json_t *manifest_text(const char *bytes, size_t length)
{
	json_t *string = json_stringn(bytes, length);
	char *clean, *to;

	if (string != NULL)
		return string;
	clean = malloc(length * 3 + 1);
	if (clean == NULL)
		return NULL;
	to = clean;
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)bytes[i] < 0x80) {
			*to++ = bytes[i];
		} else {
			memcpy(to, "\xef\xbf\xbd", 3);
			to += 3;
		}
	}
	string = json_stringn(clean, (size_t)(to - clean));
	free(clean);
	return string;
}

static json_t *rfc3339(uint64_t realtime_ns)
{
	time_t seconds = (time_t)(realtime_ns / 1000000000);
	char date[32], line[64];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(line, sizeof(line), "%s.%03uZ", date,
		(unsigned)(realtime_ns % 1000000000 / 1000000));
	return json_string(line);
}

static json_t *command_array(char **command)
{
	json_t *array = json_array();

	for (; *command != NULL; command++)
		json_array_append_new(array, manifest_text(*command, strlen(*command)));
	return array;
}

/* argv joined by NUL, as processes give it. */
static json_t *joined_array(const char *joined, size_t length)
{
	json_t *array = json_array();
	size_t start = 0;

	for (size_t i = 0; length > 0 && i <= length; i++) {
		if (i < length && joined[i] != '\0')
			continue;
		json_array_append_new(array, manifest_text(joined + start, i - start));
		start = i + 1;
	}
	return array;
}

static json_t *tunable(const struct settings *settings, enum settings_name name)
{
	uint64_t value = settings->value[name];

	if (name == SETTINGS_purge && value >= SETTINGS_PURGE_TRIM)
		return json_string(value == SETTINGS_PURGE_TRIM ? "trim" : "never");
	return integer(value);
}

static json_t *tunables_object(const struct settings *settings)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < SETTINGS_COUNT; i++)
		json_object_set_new(object, settings_name(i), tunable(settings, i));
	return object;
}

static json_t *given_array(const struct settings *settings)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < SETTINGS_COUNT; i++)
		if ((settings->given >> i & 1) != 0)
			json_array_append_new(array, json_string(settings_name(i)));
	return array;
}

/* Not known of a process that others started. */
static json_t *given_from_object(const struct manifest *manifest)
{
	json_t *object = manifest->given_by != NULL ? json_object() : json_null();

	for (unsigned i = 0; manifest->given_by != NULL && i < SETTINGS_COUNT; i++)
		if ((manifest->settings->given >> i & 1) != 0)
			json_object_set_new(object, settings_name(i),
				manifest->given_by[i] != NULL
					? json_string(manifest->given_by[i])
					: json_null());
	return object;
}

static const char *end_name(uint32_t end)
{
	static const char *const names[] = {"unknown", "exit", "signal", "exec", "detached"};

	return end < sizeof(names) / sizeof(names[0]) ? names[end] : names[0];
}

static json_t *resident_object(const struct look_resident *resident)
{
	if (resident->to_ns == 0)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "from_ns",
		(json_int_t)resident->from_ns, "to_ns", (json_int_t)resident->to_ns,
		"present_bytes", (json_int_t)resident->present, "own_bytes",
		(json_int_t)resident->own, "anonymous_bytes", (json_int_t)resident->anonymous,
		"swap_bytes", (json_int_t)resident->swap, "quiet", (int)resident->quiet);
}

static json_t *look_object(const struct process *process)
{
	const struct look *look = &process->look;
	json_t *ranges;

	if (look->to_ns == 0)
		return json_null();
	ranges = json_array();
	for (size_t i = 0; i < look->count; i++)
		json_array_append_new(ranges, json_pack("[II]", (json_int_t)look->range[i].start,
						      (json_int_t)look->range[i].end));
	return json_pack("{s:I, s:I, s:o, s:o, s:o}", "from_ns", (json_int_t)look->from_ns, "to_ns",
		(json_int_t)look->to_ns, "heap_end",
		look->heap_end != 0 ? integer(look->heap_end) : json_null(), "ranges", ranges,
		"resident", resident_object(&process->resident));
}

/* The work of the snapshots is CPU time of ours. */
static json_t *residency_object(const struct process *process, bool wanted)
{
	const struct residency_state *state = &process->residency;

	if (!wanted)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "snapshots",
		(json_int_t)state->snapshots, "cut", (json_int_t)state->cut, "failed",
		(json_int_t)state->failed, "work_ns", (json_int_t)state->work_ns, "phases_missed",
		(json_int_t)state->phases_missed, "peak_missed", (int)state->peak_missed, "end",
		(int)state->end);
}

static json_t *stream_object(const struct process *process, bool residency)
{
	const struct hl_trace_header *header = &process->header;
	bool status = !process->alive &&
		      (header->end == HL_TRACE_END_EXIT || header->end == HL_TRACE_END_SIGNAL) &&
		      header->end_status >= 0;
	json_t *object = json_object();
	char file[64];

	snprintf(file, sizeof(file), "%u.%u" HL_TRACE_SUFFIX, header->pid, header->serial);
	json_object_set_new(object, "file", json_string(file));
	json_object_set_new(object, "pid", integer(header->pid));
	json_object_set_new(object, "ppid", integer(header->ppid));
	json_object_set_new(object, "serial", integer(header->serial));
	json_object_set_new(object, "parent_serial", integer(header->parent_serial));
	json_object_set_new(
		object, "command", joined_array(process->command, process->command_bytes));
	json_object_set_new(object, "end", json_string(end_name(header->end)));
	json_object_set_new(
		object, "end_status", status ? json_integer(header->end_status) : json_null());
	json_object_set_new(object, "events", integer(process->events));
	json_object_set_new(object, "lost", integer(process->lost));
	json_object_set_new(object, "complete", json_boolean(process->complete));
	json_object_set_new(object, "proc", look_object(process));
	json_object_set_new(object, "residency", residency_object(process, residency));
	return object;
}

static json_t *stream_array(const struct processes *all)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < all->by_serial_size; i++)
		if (all->by_serial[i] != NULL && !all->by_serial[i]->removed)
			json_array_append_new(
				array, stream_object(all->by_serial[i], all->residency != NULL));
	return array;
}

static json_t *exit_object(const struct collector *collector)
{
	int status = collector->child_status;

	if (!collector->child_ended)
		return json_null();
	if (WIFSIGNALED(status))
		return json_pack("{s:i}", "signal", WTERMSIG(status));
	return json_pack("{s:i}", "status", WEXITSTATUS(status));
}

/* A pair for each kind of event: how many there were, how many of them are lost. */
static json_t *totals_object(unsigned cpu, const struct probe_total *total)
{
	static const char *const kinds[PROBE_KINDS] = {
#define HL_SYSCALL(number, name) [number - PROBE_FIRST_KIND] = #name,
#define HL_MARK(number, name) [number - PROBE_FIRST_KIND] = #name,
#include "heapledger/calls.def"
	};
	json_t *object = json_pack("{s:i}", "cpu", (int)cpu);

	for (unsigned i = 0; i < PROBE_KINDS; i++)
		if (kinds[i] != NULL && total[i].ended > 0)
			json_object_set_new(object, kinds[i],
				json_pack("[II]", (json_int_t)total[i].ended,
					(json_int_t)total[i].dropped));
	return object;
}

static json_t *totals_array(const struct probe_account *account)
{
	json_t *array;

	if (account->total == NULL)
		return json_null();
	array = json_array();
	for (unsigned cpu = 0; cpu < account->cpus; cpu++)
		json_array_append_new(array, totals_object(cpu, account->total[cpu]));
	return array;
}

static json_t *kernel_object(const struct kernel *kernel)
{
	json_t *object = json_object();
	const char *state = !kernel->wanted ? "off" : kernel->recorded ? "recorded" : "unavailable";

	json_object_set_new(object, "state", json_string(state));
	json_object_set_new(object, "why",
		kernel->recorded ? json_null() : manifest_text(kernel->why, strlen(kernel->why)));
	json_object_set_new(
		object, "way", kernel->recorded ? json_string(kernel->way) : json_null());
	json_object_set_new(
		object, "events", kernel->recorded ? integer(kernel->account.events) : json_null());
	json_object_set_new(
		object, "lost", kernel->recorded ? integer(kernel->account.lost) : json_null());
	json_object_set_new(object, "totals", totals_array(&kernel->account));
	return object;
}

void manifest_note(json_t *notes, const char *format, ...)
{
	char line[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	json_array_append_new(notes, manifest_text(line, strlen(line)));
}

static json_t *note_array(const struct manifest *manifest)
{
	const struct collector *collector = manifest->collector;
	const struct processes *all = &collector->processes;
	json_t *notes = json_array();
	char text[512];

	if (all->error != 0)
		manifest_note(notes, "the recording stopped early: %s", strerror(-all->error));
	if (collector->detached)
		manifest_note(notes, "the recording ended before all processes did");
	if (collector->unseen > 0)
		manifest_note(notes, "%u child processes ended without having been recorded",
			collector->unseen);
	if (atomic_load(&collector->session.map->stacks_dropped) > 0)
		manifest_note(notes,
			"there was no room for the stacks of %u calls: they have their caller only",
			atomic_load(&collector->session.map->stacks_dropped));
	if (all->lost_pages > 0)
		manifest_note(notes, "%u pages came from processes that had ended already",
			all->lost_pages);
	for (uint32_t i = 0; i < all->by_serial_size; i++)
		if (all->by_serial[i] != NULL && all->by_serial[i]->damaged)
			manifest_note(notes,
				"process %d wrote over its own records, some are missing",
				(int)all->by_serial[i]->pid);
	if (manifest->kernel->wanted && !manifest->kernel->recorded)
		manifest_note(notes, "no kernel side: %s", manifest->kernel->why);
	if (manifest->attach == NULL &&
		images_tell_unrecorded(text, sizeof(text), manifest->kernel, all))
		manifest_note(notes, "%s", text);
	if (manifest->attach != NULL && manifest->attach->operators_missing)
		manifest_note(notes,
			"operator new of %s is not recorded: where it returns cannot be told from "
			"its code",
			manifest->attach->allocator);
	return notes;
}

static bool whole(const struct manifest *manifest)
{
	const struct collector *collector = manifest->collector;

	return manifest->finished && collector->processes.error == 0 && !collector->detached;
}

/* Whose heap it is and how it is set. Of a program's own allocator, settings == NULL, we know
 * nothing of that. */
static void put_heap(json_t *root, const struct settings *settings, const char *otherwise)
{
	bool ours = settings != NULL;

	json_object_set_new(root, "mode", json_string(ours ? "allocator" : otherwise));
	json_object_set_new(root, "policy",
		ours ? json_string(settings_policy_name(settings->policy)) : json_null());
	json_object_set_new(root, "tunables", ours ? tunables_object(settings) : json_null());
	json_object_set_new(root, "tunables_set", ours ? given_array(settings) : json_null());
	json_object_set_new(root, "check", ours ? integer(settings->check) : json_null());
	json_object_set_new(root, "model", ours ? json_string("glibc 2.36") : json_null());
}

static json_t *integer_or_null(uint64_t value)
{
	return value != 0 ? integer(value) : json_null();
}

static json_t *options_object(const struct manifest *manifest)
{
	const struct collector *collector = manifest->collector;

	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:o, s:i, s:o, s:o, s:o}", "on_full",
		manifest->on_full, "kernel", manifest->kernel_mode, "faults",
		(int)manifest->kernel->with_faults, "buffer_bytes",
		(json_int_t)manifest->buffer_bytes, "interval_ns",
		(json_int_t)collector->interval_ns, "residency_ns",
		integer_or_null(collector->residency_ns), "stacks",
		(int)collector->session.map->stack_depth, "start_after_ns",
		integer_or_null(collector->start_after_ns), "duration_ns",
		integer_or_null(collector->duration_ns), "ring_bytes",
		integer_or_null(collector->ring_bytes));
}

static json_t *attach_options(const struct manifest *manifest)
{
	const struct collector *collector = manifest->collector;

	return json_pack("{s:s, s:I, s:o, s:b}", "kernel", manifest->kernel_mode, "interval_ns",
		(json_int_t)collector->interval_ns, "duration_ns",
		integer_or_null(collector->duration_ns), "malloc", (int)manifest->attach->calls);
}

/* Hits of probes by kind: how many, and what each was measured to cost. */
static json_t *hits_object(const struct allocator_cost *cost)
{
	static const char *const names[EVENT_HITS] = {"emulated", "stepped", "return"};
	json_t *object = json_object();

	for (int i = 0; i < EVENT_HITS; i++)
		json_object_set_new(object, names[i],
			json_pack("{s:I, s:f}", "count", (json_int_t)cost->hits[i], "ns_each",
				cost->hit_ns[i]));
	return object;
}

static json_t *attach_object(const struct manifest_attach *attach)
{
	const struct allocator_account *account = attach->account;
	json_t *object = json_object();

	json_object_set_new(object, "allocator",
		attach->allocator != NULL
			? manifest_text(attach->allocator, strlen(attach->allocator))
			: json_null());
	json_object_set_new(
		object, "hits", account != NULL ? hits_object(&account->cost) : json_null());
	json_object_set_new(object, "seconds",
		account != NULL ? json_real(allocator_seconds(&account->cost)) : json_null());
	return object;
}

static json_t *own_cpu(void)
{
	struct timespec time;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) != 0)
		return json_null();
	return integer((uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec);
}

json_t *manifest_build(const struct manifest *manifest)
{
	const struct collector *collector = manifest->collector;
	const struct session *session = &collector->session;
	const char *clock = session->map->clock == HL_CLOCK_TSC ? "tsc" : "monotonic";
	json_t *root = json_object();

	if (root == NULL)
		return NULL;
	json_object_set_new(root, "schema", json_string(HL_TRACE_SESSION_SCHEMA));
	json_object_set_new(root, "version", json_string(HEAPLEDGER_VERSION));
	json_object_set_new(root, "complete", json_boolean(whole(manifest)));
	json_object_set_new(root, "command", command_array(manifest->command));
	put_heap(root, manifest->settings, manifest->attach != NULL ? "attached" : "observe");
	json_object_set_new(root, "tunables_from", given_from_object(manifest));
	json_object_set_new(root, "started", rfc3339(session->realtime_ns));
	json_object_set_new(root, "clock", json_string(clock));
	json_object_set_new(root, "tick_hz", integer(session->tick_hz));
	json_object_set_new(root, "host", host_object());
	json_object_set_new(root, "options",
		manifest->attach != NULL ? attach_options(manifest) : options_object(manifest));
	if (manifest->attach != NULL)
		json_object_set_new(root, "attach", attach_object(manifest->attach));
	json_object_set_new(root, "exit", exit_object(collector));
	json_object_set_new(root, "duration_ns",
		manifest->finished ? integer(collector->ended_ns - collector->started_ns)
				   : json_null());
	json_object_set_new(
		root, "recorder_cpu_ns", manifest->finished ? own_cpu() : json_null());
	json_object_set_new(root, "overwritten_events", integer(collector->processes.overwritten));
	json_object_set_new(root, "streams", stream_array(&collector->processes));
	json_object_set_new(root, "unrecorded_processes",
		integer(atomic_load(&session->map->unregistered) + collector->unseen));
	json_object_set_new(root, "kernel", kernel_object(manifest->kernel));
	json_object_set_new(root, "notes", note_array(manifest));
	return root;
}

static int write_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, bytes, length);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			bytes += n;
			length -= (size_t)n;
		}
	}
	return 0;
}

/* A file of a name that others may know: what is there by that name goes. */
static int create_temporary(int dirfd)
{
	unlinkat(dirfd, TEMPORARY, 0);
	return openat(dirfd, TEMPORARY, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static int replace_file(int dirfd, const char *bytes)
{
	int fd = create_temporary(dirfd), rc;

	if (fd < 0)
		return -errno;
	output_hand_over(dirfd, fd);
	rc = write_all(fd, bytes, strlen(bytes));
	if (rc == 0)
		rc = write_all(fd, "\n", 1);
	if (close(fd) != 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && renameat(dirfd, TEMPORARY, dirfd, HL_TRACE_SESSION_FILE) != 0)
		rc = -errno;
	if (rc != 0)
		unlinkat(dirfd, TEMPORARY, 0);
	return rc;
}

int manifest_replace(int dirfd, const json_t *root)
{
	char *bytes = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	int rc = bytes == NULL ? -ENOMEM : replace_file(dirfd, bytes);

	free(bytes);
	return rc;
}

int manifest_write(const struct manifest *manifest)
{
	json_t *root = manifest_build(manifest);
	int rc = manifest_replace(manifest->collector->dirfd, root);

	json_decref(root);
	return rc;
}
