/* SPDX-License-Identifier: MIT
 *
 * Buffered output to stdout or to a file that appears only when it is whole: it is written under a
 * temporary name beside it and renamed by writer_close. Used by dump, json.c and csv.c.
 *
 * Errors stick and come out of writer_close, so that callers check once.
 */
#ifndef HEAPLEDGER_WRITER_H
#define HEAPLEDGER_WRITER_H

#include <stddef.h>
#include <stdint.h>

#define WRITER_BYTES (64 << 10)

struct writer {
	int fd;
	int error;  /* -errno of the first failure */
	char *path; /* NULL for stdout */
	char *temporary;
	size_t used;
	char bytes[WRITER_BYTES];
};

/* `path` "-" is stdout. Returns 0 or -errno. */
int writer_open(struct writer *out, const char *path);

void writer_write(struct writer *out, const char *bytes, size_t length);
void writer_text(struct writer *out, const char *text);
/* Text of a file: what a terminal would obey is escaped (record/escape.h). */
void writer_printable(struct writer *out, const char *text);
void writer_char(struct writer *out, char c);
void writer_u64(struct writer *out, uint64_t value);
void writer_i64(struct writer *out, int64_t value);
void writer_hex(struct writer *out, uint64_t value);                       /* with 0x */
void writer_fraction(struct writer *out, uint64_t value, unsigned digits); /* leading zeros */

void writer_flush(struct writer *out);

/* Writes out what is left. With keep = 0, or after an error, a file is removed again and what was
 * there before stays. */
int writer_close(struct writer *out, int keep);

#endif
