/* SPDX-License-Identifier: MIT
 *
 * Feeds bytes to the readers of text logs, what they let through to the streams of a trace, and
 * those to the reader: everything that went in must come out. With libFuzzer it is the target;
 * runner.c feeds it files. The last byte chooses the format and how much is read at once; a newline
 * is no format and 11 bytes.
 */
#include "stream_reader.h"
#include "text_formats.h"
#include "text_streams.h"

#include "heapledger/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct input {
	const uint8_t *at;
	size_t left;
	size_t step;
};

static char folder[4096];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void remove_folder(void)
{
	rmdir(folder);
}

static int open_folder(void)
{
	static int fd = -1;
	const char *where = getenv("TMPDIR");

	if (fd < 0) {
		snprintf(folder, sizeof(folder), "%.4000s/fuzz_text.XXXXXX",
			where != NULL ? where : P_tmpdir);
		require(mkdtemp(folder) != NULL);
		atexit(remove_folder);
		fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	return fd;
}

static ssize_t read_input(void *source, char *to, size_t bytes)
{
	struct input *input = source;
	size_t n = input->left < input->step ? input->left : input->step;

	n = n < bytes ? n : bytes;
	memcpy(to, input->at, n);
	input->at += n;
	input->left -= n;
	return (ssize_t)n;
}

static void check_event(const struct text_event *event)
{
	require(event->addr <= HL_ADDRESS_MASK && event->old <= HL_ADDRESS_MASK);
	require(event->addr == 0 || event->kind == HL_KIND_free || event->size <= HL_ADDRESS_MASK);
	require(event->start_ns <= event->end_ns && event->pid <= UINT32_MAX);
}

static void take_line(struct text_parser *parser, struct text_streams *streams,
	const struct text_line *line, uint64_t *taken)
{
	struct text_event event;
	const char *expected = NULL;
	enum text_result result = text_parse(parser, line, &event);
	int rc;

	require(parser->left_line < line->number);
	require(result != TEXT_MALFORMED || parser->expected != NULL);
	if (result != TEXT_EVENT)
		return;
	check_event(&event);
	streams->format = parser->format;
	rc = text_streams_put(streams, &event, &expected);
	require(rc >= 0 && (rc == 0 || expected != NULL));
	*taken += rc == 0 && event.kind != HL_KIND_thread_exit;
}

/* Calls in it, in the order of their ticks. */
static uint64_t count_calls(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	struct stream_reader *reader;
	const struct stream_event *event;
	struct stat status;
	uint64_t calls = 0, tick = 0;
	int rc;

	require(fd >= 0 && fstat(fd, &status) == 0);
	struct stream_input input = {.fd = fd, .size = (uint64_t)status.st_size, .name = name};
	require(stream_reader_open(&reader, &input) == 0);
	while ((rc = stream_reader_next(reader, &event)) > 0) {
		unsigned kind = hl_kind_of(event->record.call.kind_addr);

		require(event->record.word[0] >= tick);
		tick = event->record.word[0];
		calls += kind != HL_KIND_realloc_begin && kind != HL_KIND_thread_exit;
	}
	require(rc == 0);
	stream_reader_close(reader);
	close(fd);
	require(unlinkat(dirfd, name, 0) == 0);
	return calls;
}

static void read_back(struct text_streams *streams, uint64_t taken)
{
	uint64_t calls = 0;

	for (uint32_t i = 0; i < streams->pids.count; i++) {
		struct text_process *process = streams->process[i];
		char name[PROCESS_NAME_BYTES];

		if (process == NULL)
			continue;
		snprintf(name, sizeof(name), "%u.%u" HL_TRACE_SUFFIX,
			(unsigned)process->process.pid, process->process.serial);
		calls += count_calls(streams->dirfd, name);
	}
	require(calls == taken && taken == streams->events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {NULL, "logalloc", "mtrace", "memory_replay", NULL};
	uint8_t last = size != 0 ? data[size - 1] : '\n';
	struct input input = {.at = data, .left = size, .step = last + 1u};
	struct text_parser parser = {0};
	static struct text_streams streams;
	struct text_lines lines;
	struct text_line line;
	uint64_t taken = 0;

	memset(&streams, 0, sizeof(streams));
	streams.dirfd = open_folder();
	if (names[last % 5] != NULL)
		parser.format = text_format_find(names[last % 5]);
	require(text_lines_open(&lines, read_input, &input) == 0);
	while (text_lines_next(&lines, &line) > 0)
		take_line(&parser, &streams, &line, &taken);
	text_parse_end(&parser);
	require(text_streams_close(&streams, true) == 0);
	read_back(&streams, taken);
	text_streams_free(&streams);
	text_lines_close(&lines);
	return 0;
}
