/* SPDX-License-Identifier: MIT
 *
 * See import_text.h. The directory is made when the first line is known to be of a log, and
 * session.json is its last file; whatever fails before takes the directory with it.
 */
#include "import_text.h"

#include "manifest.h"
#include "output.h"
#include "text_formats.h"
#include "text_lines.h"
#include "text_streams.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MALFORMED_SHOWN 5
#define LINES_TRIED 1000 /* without one that is of the format */

struct malformed {
	uint64_t line;
	const char *expected;
};

struct text_import {
	const struct text_import_options *options;
	const char *command;
	const char *name; /* of the input, for messages */
	char directory[PATH_MAX];
	int dirfd; /* -1: nothing was made yet */
	bool created;
	struct text_source *source;
	struct text_lines lines;
	struct text_parser parser;
	struct text_streams streams;
	uint64_t good; /* lines of the format */
	uint64_t malformed;
	struct malformed first[MALFORMED_SHOWN];
};

static volatile sig_atomic_t interrupted;
static int input_fd = -1;
static int empty_fd = -1;

/* A read that waits is interrupted, and one that begins now finds nothing. */
static void interrupt(int number)
{
	int error = errno;

	interrupted = number;
	dup2(empty_fd, input_fd);
	errno = error;
}

/* So that what was made is taken away; then the signal does what it would have done. */
static void catch_signals(int fd)
{
	static const int numbers[] = {SIGHUP, SIGINT, SIGTERM};
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};
	struct sigaction before;

	input_fd = fd;
	empty_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(numbers[i], &action, NULL);
}

/* ---- the directory --------------------------------------------------------------------------- */

static void choose_directory(struct text_import *import)
{
	const struct text_import_options *options = import->options;
	const char *file = strcmp(options->path, "-") == 0 ? "stdin" : tool_base_name(options->path);

	if (options->directory != NULL)
		snprintf(import->directory, sizeof(import->directory), "%s", options->directory);
	else
		snprintf(import->directory, sizeof(import->directory), "heapledger.%.200s", file);
}

static int open_directory(struct text_import *import)
{
	char why[PATH_MAX + 256];

	if (import->dirfd >= 0)
		return TOOL_OK;
	import->dirfd = output_open(
		import->directory, import->options->force, &import->created, why, sizeof(why));
	if (import->dirfd < 0)
		return tool_fail(TOOL_USAGE, import->command, "%s", why);
	import->streams.dirfd = import->dirfd;
	import->streams.format = import->parser.format;
	return TOOL_OK;
}

/* Before anything is read: it may come from a pipe, and only once. */
static int check_directory(const struct text_import *import)
{
	struct stat status;

	if (import->options->force || lstat(import->directory, &status) != 0)
		return TOOL_OK;
	return tool_fail(TOOL_USAGE, import->command,
		"%s exists; name another directory with -o, or give --force to replace a trace",
		import->directory);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static int cannot_write(const struct text_import *import, int rc)
{
	return tool_fail(
		TOOL_USAGE, import->command, "writing to %s: %s", import->directory, strerror(-rc));
}

static int not_a_log(const struct text_import *import)
{
	const struct text_format *format = import->parser.format;

	if (import->malformed == 0)
		return tool_fail(TOOL_UNREADABLE, import->command, "%s: there is no line in it",
			import->name);
	return tool_fail(TOOL_UNREADABLE, import->command,
		"%s: not a log of %s: line %" PRIu64 ": expected %s", import->name,
		format != NULL ? format->name : TEXT_FORMAT_NAMES, import->first[0].line,
		import->first[0].expected);
}

static void leave_out(struct text_import *import, uint64_t line, const char *expected)
{
	if (import->malformed < MALFORMED_SHOWN)
		import->first[import->malformed] = (struct malformed){line, expected};
	import->malformed++;
}

static int take_event(
	struct text_import *import, const struct text_line *line, const struct text_event *event)
{
	const char *expected;
	int rc = text_streams_put(&import->streams, event, &expected);

	if (rc > 0)
		leave_out(import, line->number, expected);
	return rc < 0 ? cannot_write(import, rc) : TOOL_OK;
}

static int take_line(struct text_import *import, const struct text_line *line)
{
	struct text_parser *parser = &import->parser;
	struct text_event event;
	enum text_result result = text_parse(parser, line, &event);
	int code;

	if (parser->left_line != 0)
		leave_out(import, parser->left_line, TEXT_OTHER_HALF);
	if (result == TEXT_MALFORMED) {
		leave_out(import, line->number, parser->expected);
		if (import->good == 0 && (line->too_long || import->malformed >= LINES_TRIED))
			return not_a_log(import);
		return TOOL_OK;
	}
	if (result == TEXT_BLANK)
		return TOOL_OK;
	import->good++;
	code = open_directory(import);
	return code == TOOL_OK && result == TEXT_EVENT ? take_event(import, line, &event) : code;
}

static int read_lines(struct text_import *import)
{
	struct text_line line;
	int code = TOOL_OK, rc = 0;

	while (code == TOOL_OK && !interrupted && (rc = text_lines_next(&import->lines, &line)) > 0)
		code = take_line(import, &line);
	if (code == TOOL_OK && !interrupted && rc < 0)
		code = tool_fail(TOOL_UNREADABLE, import->command, "%s: %s", import->name,
			text_source_error(import->source));
	text_parse_end(&import->parser);
	if (import->parser.left_line != 0)
		leave_out(import, import->parser.left_line, TEXT_OTHER_HALF);
	if (code == TOOL_OK && !interrupted && import->good == 0)
		code = not_a_log(import);
	return code;
}

/* ---- session.json ---------------------------------------------------------------------------- */

static json_t *notes_array(const struct text_import *import)
{
	const struct text_streams *streams = &import->streams;
	json_t *notes = json_array();

	if (import->malformed > 0)
		manifest_note(notes,
			"%" PRIu64
			" line%s of the log could not be read, the first is line %" PRIu64,
			import->malformed, import->malformed == 1 ? "" : "s",
			import->first[0].line);
	if (streams->untimed > 0)
		manifest_note(notes,
			"%" PRIu64 " events have no time in the log: they follow the one before",
			streams->untimed);
	if (streams->timed_in_vain > 0)
		manifest_note(notes,
			"%" PRIu64 " events have a time in the log, and the first has none: "
			"times are left out",
			streams->timed_in_vain);
	if (streams->numbered)
		manifest_note(notes, "the log has numbers for blocks: its addresses are not addresses");
	return notes;
}

static json_t *imported_object(const struct text_import *import)
{
	json_t *object = json_object();

	json_object_set_new(object, "format", json_string(import->parser.format->name));
	json_object_set_new(object, "file", manifest_text(import->name, strlen(import->name)));
	json_object_set_new(object, "lines", json_integer((json_int_t)import->lines.number));
	json_object_set_new(object, "malformed_lines", json_integer((json_int_t)import->malformed));
	json_object_set_new(object, "times", json_boolean(import->streams.timed));
	return object;
}

/* What is said of a recording, and is not known of this one, is null. */
static void forget(json_t *root)
{
	static const char *const unknown[] = {
		"started", "tick_hz", "host", "exit", "duration_ns", "unrecorded_processes"};

	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		json_object_set_new(root, unknown[i], json_null());
}

static json_t *build_session(const struct text_import *import, struct process **processes)
{
	static char *command[] = {NULL};
	static struct hl_session map;
	static struct collector collector;
	static const struct kernel kernel = {.why = "an imported log has no kernel side"};
	const struct manifest manifest = {.collector = &collector,
		.kernel = &kernel,
		.command = command,
		.on_full = "wait",
		.kernel_mode = "off"};
	json_t *root;

	collector.session.map = &map;
	collector.processes.by_serial = processes;
	collector.processes.by_serial_size = import->streams.pids.count;
	root = manifest_build(&manifest);
	if (root == NULL)
		return NULL;
	forget(root);
	json_object_set_new(root, "mode", json_string("imported"));
	json_object_set_new(root, "imported", imported_object(import));
	json_object_set_new(
		root, "clock", json_string(import->streams.timed ? "monotonic" : "events"));
	json_object_set_new(root, "options", json_object());
	json_object_set_new(root, "complete", json_boolean(import->malformed == 0));
	json_object_set_new(root, "notes", notes_array(import));
	return root;
}

static int write_session(struct text_import *import)
{
	struct process *processes[TEXT_PROCESSES_MOST] = {NULL};
	json_t *root;
	int rc;

	for (uint32_t i = 0; i < import->streams.pids.count; i++)
		if (import->streams.process[i] != NULL)
			processes[i] = &import->streams.process[i]->process;
	root = build_session(import, processes);
	rc = manifest_replace(import->dirfd, root);
	json_decref(root);
	return rc;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void report(const struct text_import *import)
{
	const struct text_streams *streams = &import->streams;
	char threads[64] = "";

	for (uint64_t i = 0; i < import->malformed && i < MALFORMED_SHOWN; i++)
		tool_fail(TOOL_OK, import->command, "%s:%" PRIu64 ": left out: expected %s",
			import->name, import->first[i].line, import->first[i].expected);
	if (streams->threads > 0)
		snprintf(threads, sizeof(threads), " of %" PRIu64 " thread%s", streams->threads,
			streams->threads == 1 ? "" : "s");
	if (streams->format->has_pids)
		snprintf(threads + strlen(threads), sizeof(threads) - strlen(threads),
			" in %u process%s", streams->pids.count,
			streams->pids.count == 1 ? "" : "es");
	tool_fail(TOOL_OK, import->command, "%s: %" PRIu64 " calls%s by %s, in %s", import->name,
		streams->events, threads, streams->format->name, import->directory);
	if (import->malformed > 0)
		tool_fail(TOOL_OK, import->command,
			"%s: %" PRIu64 " of %" PRIu64
			" lines left out: the trace is marked incomplete",
			import->name, import->malformed, import->lines.number);
}

static int finish(struct text_import *import)
{
	int rc = text_streams_close(&import->streams, import->malformed == 0);

	if (rc == 0)
		rc = write_session(import);
	if (rc != 0)
		return cannot_write(import, rc);
	report(import);
	return import->malformed == 0 ? TOOL_OK : TOOL_FINDING;
}

static int import_from(struct text_import *import, int fd)
{
	int rc = text_source_open(&import->source, fd);
	int code;

	if (rc == 0)
		rc = text_lines_open(&import->lines, text_source_read, import->source);
	if (rc != 0)
		return tool_fail(
			TOOL_UNREADABLE, import->command, "%s: %s", import->name, strerror(-rc));
	catch_signals(fd);
	code = read_lines(import);
	return code == TOOL_OK && !interrupted ? finish(import) : code;
}

/* Of what failed nothing is left. */
static void clean_up(struct text_import *import, bool keep)
{
	text_streams_free(&import->streams);
	text_lines_close(&import->lines);
	text_source_close(import->source);
	if (import->dirfd >= 0 && !keep)
		output_remove(import->directory, import->dirfd, import->created);
	if (import->dirfd >= 0)
		close(import->dirfd);
}

int import_text(const struct text_import_options *options, const char *command)
{
	bool from_stdin = strcmp(options->path, "-") == 0;
	struct text_import import = {.options = options,
		.command = command,
		.name = from_stdin ? "standard input" : options->path,
		.dirfd = -1};
	int fd, code;

	if (options->format != NULL)
		import.parser.format = text_format_find(options->format);
	choose_directory(&import);
	code = check_directory(&import);
	if (code != TOOL_OK)
		return code;
	fd = from_stdin ? STDIN_FILENO : open(options->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return tool_fail(
			TOOL_UNREADABLE, command, "%s: %s", options->path, strerror(errno));
	code = import_from(&import, fd);
	clean_up(&import, !interrupted && (code == TOOL_OK || code == TOOL_FINDING));
	if (interrupted)
		raise(interrupted);
	return code;
}
