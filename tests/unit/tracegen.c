/* SPDX-License-Identifier: MIT
 *
 * Makes trace directories without recording anything, for the tests of the commands:
 *   tracegen DIR < script
 * The script's lines are words; numbers are decimal or 0x hexadecimal. See `commands` below. What a
 * line says is written as it is: the script is the only authority on what the trace should show.
 *   tracegen --random EVENTS LIVE THREADS DIR
 * writes a large one-process trace for measuring.
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heapledger/session.h"

static struct stream *stream;
static int dirfd_of_trace;
static unsigned line_number;
static uint64_t arguments[16];
static unsigned argument_count;
static char command[256] = "program";

static void die(const char *what)
{
	fprintf(stderr, "tracegen: line %u: %s\n", line_number, what);
	exit(2);
}

static void append(uint32_t tid, const void *record, unsigned slots)
{
	if (!stream)
		die("no stream");
	if (stream_append(stream, tid, record, slots))
		die("stream_append failed");
}

/* stream PID SERIAL PARENT_SERIAL FORK_ID START_TICK */
static void do_stream(void)
{
	struct hl_trace_header header = {
		.clock = HL_CLOCK_MONOTONIC,
		.pid = (uint32_t)arguments[0],
		.ppid = 1,
		.serial = (uint32_t)arguments[1],
		.parent_serial = (uint32_t)arguments[2],
		.fork_id = arguments[3],
		.start_tick = arguments[4],
		.tick_hz = 1000000000,
		.page_bytes = 4096,
		.command_bytes = (uint32_t)strlen(command),
	};
	if (stream)
		die("the stream before is still open");
	int rc = stream_create(&stream, dirfd_of_trace, &header, command);
	if (rc)
		die(strerror(-rc));
}

/* close COMPLETE END END_STATUS END_TICK LOST */
static void do_close(void)
{
	int rc = stream_close(stream, (int)arguments[0], (enum hl_trace_end)arguments[1],
		(int32_t)arguments[2], arguments[3], arguments[4], NULL, 0);
	stream = NULL;
	if (rc)
		die(strerror(-rc));
}

static void do_flush(void)
{
	if (stream_flush(stream))
		die("stream_flush failed");
}

/* call TID TICK KIND ADDR SIZE CHUNK FLAGS ALIGNMENT CALLER: marks too, which take the first words
 */
static void do_call(void)
{
	struct hl_call_record record = {
		.tick = arguments[1],
		.kind_addr = hl_kind_addr((enum hl_kind)arguments[2], arguments[3]),
		.size = arguments[4],
		.chunk = arguments[5] | arguments[6] << HL_ADDRESS_BITS,
		.caller = arguments[8],
		.alignment = arguments[7],
	};
	unsigned slots = hl_kind_slots((unsigned)arguments[2]);
	if (slots != 1 && slots != 2)
		die("not a call");
	append((uint32_t)arguments[0], &record, slots);
}

/* syscall TID TICK KIND ADDR LENGTH ARGUMENT RESULT DURATION CALL REASON REGION CALLER
 * [ARENA] */
static void do_syscall(void)
{
	struct hl_syscall_record record = {
		.tick = arguments[1],
		.kind_addr = hl_kind_addr((enum hl_kind)arguments[2], arguments[3]),
		.length = arguments[4],
		.argument = arguments[5],
		.result = (int64_t)arguments[6],
		.duration = arguments[7],
		.cause = hl_cause_pack(
			(unsigned)arguments[8], (unsigned)arguments[9], (unsigned)arguments[10],
			(unsigned)arguments[12]),
		.mmap_threshold = 131072,
		.trim_threshold = 131072,
		.top_pad = 131072,
		.caller = arguments[11],
	};
	if (hl_kind_slots((unsigned)arguments[2]) != 3)
		die("not a system call");
	append((uint32_t)arguments[0], &record, 3);
}

/* sample TID TICK ANON FILE SHMEM PEAK RECORDER */
static void do_sample(void)
{
	struct hl_sample_record record = {
		.tick = arguments[1],
		.kind_addr = hl_kind_addr(HL_KIND_sample, 0),
		.rss_anon = arguments[2],
		.rss_file = arguments[3],
		.rss_shmem = arguments[4],
		.rss_peak = arguments[5],
		.recorder = arguments[6],
	};
	append((uint32_t)arguments[0], &record, 3);
}

/* phase TID TICK: its name is the last command line */
static void do_phase(void)
{
	struct hl_phase_record record = {
		.tick = arguments[1],
		.kind_addr = hl_kind_addr(HL_KIND_phase, 0),
	};
	hl_phase_name(&record, command);
	append((uint32_t)arguments[0], &record, 3);
}

static const struct {
	const char *name;
	unsigned arguments;
	void (*run)(void);
} commands[] = {
	{"stream", 5, do_stream},
	{"close", 5, do_close},
	{"flush", 0, do_flush},
	{"call", 9, do_call},
	{"syscall", 13, do_syscall},
	{"sample", 7, do_sample},
	{"phase", 2, do_phase},
};

static void run_line(char *line)
{
	char *save;
	char *word = strtok_r(line, " \t\n", &save);
	if (!word || *word == '#')
		return;
	if (!strcmp(word, "command")) {
		snprintf(command, sizeof(command), "%s", strtok_r(NULL, "\n", &save));
		return;
	}
	memset(arguments, 0, sizeof(arguments));
	argument_count = 0;
	for (char *text; (text = strtok_r(NULL, " \t\n", &save)) && argument_count < 16;)
		arguments[argument_count++] =
			*text == '-' ? (uint64_t)strtoll(text, NULL, 0) : strtoull(text, NULL, 0);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, word))
			continue;
		if (argument_count > commands[i].arguments)
			die("too many numbers");
		commands[i].run();
		return;
	}
	die("no such command");
}

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint64_t call_tick = 1000;

static void random_call(uint32_t tid, enum hl_kind kind, uint64_t addr, uint64_t size)
{
	struct hl_call_record record = {.tick = call_tick += 20 + next_random() % 300,
		.kind_addr = hl_kind_addr(kind, addr),
		.size = size,
		.chunk = kind == HL_KIND_free ? 0 : (size + 8 + 15) & ~UINT64_C(15)};
	append(tid, &record, 2);
}

/* A heap of `live` places of 1,024 bytes; each event frees a place or fills it again. */
static void generate(uint64_t events, uint64_t live, unsigned threads)
{
	const uint64_t base = 0x555555560000;
	uint8_t *used = calloc(1, live);
	if (!used)
		die("not enough memory");
	memset(arguments, 0, sizeof(arguments));
	arguments[0] = arguments[1] = 1;
	do_stream();
	memset(arguments, 0, sizeof(arguments));
	arguments[0] = 1, arguments[1] = 900, arguments[2] = HL_KIND_brk, arguments[3] = base;
	arguments[5] = arguments[6] = base + live * 1024, arguments[7] = 100;
	arguments[8] = HL_KIND_malloc, arguments[9] = HL_REASON_grow_top;
	arguments[10] = HL_REGION_break;
	do_syscall();
	for (uint64_t i = 0; i < events; i++) {
		/* Mostly young blocks, as programs do: a window that wanders over the heap. */
		uint64_t window = live < 256 ? live : 256;
		uint64_t place = (i / 64 + next_random() % window) % live;
		if (!(next_random() & 15))
			place = next_random() % live;
		uint64_t size = 16 + (next_random() & next_random() & 511);
		random_call(1 + (uint32_t)(next_random() % threads),
			used[place] ? HL_KIND_free : HL_KIND_malloc, base + 16 + place * 1024,
			used[place] ? 0 : size);
		used[place] ^= 1;
	}
	memset(arguments, 0, sizeof(arguments));
	arguments[0] = 1, arguments[1] = HL_TRACE_END_EXIT, arguments[3] = call_tick;
	do_close();
	free(used);
}

int main(int argc, char **argv)
{
	char line[1024];
	bool random = argc == 6 && !strcmp(argv[1], "--random");
	if (argc != 2 && !random) {
		fputs("usage: tracegen DIR < SCRIPT\n"
		      "       tracegen --random EVENTS LIVE THREADS DIR\n",
			stderr);
		return 2;
	}
	dirfd_of_trace = open(argv[argc - 1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd_of_trace < 0)
		die(strerror(errno));
	if (random)
		generate(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0),
			(unsigned)strtoul(argv[4], NULL, 0));
	while (!random && fgets(line, sizeof(line), stdin)) {
		line_number++;
		run_line(line);
	}
	if (stream)
		die("the last stream was not closed");
	close(dirfd_of_trace);
	return 0;
}
