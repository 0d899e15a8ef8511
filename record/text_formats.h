/* SPDX-License-Identifier: MIT
 *
 * The lines of the logs that other tools write (docs/imports.md): Mozilla's logalloc, glibc's
 * mtrace, Android's memory_replay. A line becomes an event, or a sentence on what it should have
 * been. Called by import_text.c; pure functions over bytes, fuzzed.
 */
#ifndef HEAPLEDGER_RECORD_TEXT_FORMATS_H
#define HEAPLEDGER_RECORD_TEXT_FORMATS_H

#include "text_lines.h"

#include <stdbool.h>
#include <stdint.h>

/* What a line says. 0 stands for ids that are not in it. */
struct text_event {
	unsigned kind; /* of a call, or HL_KIND_thread_exit */
	bool timed;
	bool numbered; /* blocks have numbers instead of addresses */
	uint64_t pid;
	uint64_t tid;
	uint64_t addr; /* the result, 0 = failed; of a free the argument */
	uint64_t old;  /* of a realloc */
	uint64_t size;
	uint64_t count; /* of a calloc; until the line is read */
	uint64_t alignment;
	uint64_t start_ns;
	uint64_t end_ns;
};

enum text_result {
	TEXT_EVENT,
	TEXT_HALF,      /* the first of two lines that are one event */
	TEXT_OTHER,     /* of the format, but no event */
	TEXT_BLANK,     /* of any format */
	TEXT_MALFORMED, /* parser->expected says what should be there */
};

struct text_parser;

struct text_format {
	const char *name;
	enum text_result (*parse)(
		struct text_parser *, const struct text_line *, struct text_event *);
	bool has_pids;
	bool has_tids;
	bool numbers_threads; /* its thread ids are not Linux's: they are numbered instead */
};

/* Begin with the format, or NULL: it is found by the first line that is of one. */
struct text_parser {
	const struct text_format *format;
	const char *expected;
	uint64_t half_line; /* the number of a line that waits for its other half, 0 = none */
	uint64_t half_addr;
	uint64_t left_line; /* of one that waited and did not get it: malformed, too */
};

/* NULL if there is none of this name. `text_format_names` lists them, for messages. */
const struct text_format *text_format_find(const char *name);
#define TEXT_FORMAT_NAMES "logalloc, mtrace or memory_replay"

/* Reads one line; sets left_line, or sets it to 0. At the end text_parse_end sets it. */
enum text_result text_parse(
	struct text_parser *parser, const struct text_line *line, struct text_event *event);
void text_parse_end(struct text_parser *parser);

/* What should have followed left_line. */
#define TEXT_OTHER_HALF "a line `> POINTER SIZE` right after it"

#endif
