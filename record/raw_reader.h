/* SPDX-License-Identifier: MIT
 *
 * Reads a raw file (heapledger/raw.h) page by page, in the order in which its process took them. A
 * pure function over bytes or a descriptor: nothing in the file is trusted. Called by import.c.
 */
#ifndef HEAPLEDGER_RAW_READER_H
#define HEAPLEDGER_RAW_READER_H

#include "heapledger/raw.h"

#include <stdbool.h>
#include <stdint.h>

struct raw_reader;

struct raw_input {
	int fd;
	const uint8_t *bytes; /* instead of fd, when not NULL */
	uint64_t size;
	const char *name;     /* for messages */
	uint64_t latest_tick; /* of a process that runs: later records are left out */
};

/* The whole records of one page. */
struct raw_page {
	uint32_t tid;
	uint64_t tick;
	const struct hl_packed *slots;
	uint32_t count;
	uint64_t events; /* calls and system calls among them, as the manifest counts them */
	uint64_t syscalls;
	uint64_t last_tick;
	uint64_t damage_offset; /* 0, or where in the file something else than a record stands */
};

/* 0, or -errno and a line in raw_reader_error. *out may then still hold a reader, for that and
 * raw_reader_close. */
int raw_reader_open(struct raw_reader **out, const struct raw_input *input);

/* False if the process ended before it had filled in its header: then there is nothing to read. */
bool raw_reader_has_begun(const struct raw_reader *reader);
const struct hl_raw *raw_reader_header(const struct raw_reader *reader);

/* The last pair of both clocks that can be found quickly; false if there is none. */
bool raw_reader_last_clock(struct raw_reader *reader, uint64_t *tick, uint64_t *ns);

/* 1 = *page was set (valid until the next call), 0 = no more, -errno. */
int raw_reader_next(struct raw_reader *reader, const struct raw_page **page);

const char *raw_reader_error(const struct raw_reader *reader);
void raw_reader_close(struct raw_reader *reader);

#endif
