/* SPDX-License-Identifier: MIT
 *
 * Buffered output; the number formatting is here because printf is a third of a dump's time.
 */
#include "writer.h"

#include "record/escape.h"
#include "record/stranger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A pipe, /dev/stdout: nothing to replace, and a rename would remove it. Not what somebody else has
 * laid there. */
static int open_special(struct writer *out, const char *path)
{
	struct stat status;
	if (lstat(path, &status))
		return -errno;
	if (S_ISBLK(status.st_mode) || (!S_ISCHR(status.st_mode) && stranger_owns(&status)))
		return -EPERM;
	out->fd = open(path, O_WRONLY | O_CLOEXEC);
	out->path = out->fd < 0 ? NULL : strdup(path);
	return out->fd < 0 ? -errno : 0;
}

static mode_t usual_mode(void)
{
	mode_t mask = umask(0);
	umask(mask);
	return 0666 & ~mask;
}

int writer_open(struct writer *out, const char *path)
{
	out->error = 0;
	out->used = 0;
	out->path = out->temporary = NULL;
	out->fd = STDOUT_FILENO;
	if (!strcmp(path, "-"))
		return 0;
	struct stat status;
	if (!stat(path, &status) && !S_ISREG(status.st_mode))
		return open_special(out, path);
	out->path = strdup(path);
	if (!out->path || asprintf(&out->temporary, "%s.XXXXXX", path) < 0) {
		free(out->path);
		return -ENOMEM;
	}
	out->fd = mkostemp(out->temporary, O_CLOEXEC);
	if (out->fd >= 0 && !fchmod(out->fd, usual_mode()))
		return 0;
	int rc = -errno;
	if (out->fd >= 0) {
		close(out->fd);
		unlink(out->temporary);
	}
	free(out->path);
	free(out->temporary);
	return rc;
}

void writer_flush(struct writer *out)
{
	for (size_t at = 0; at < out->used && !out->error;) {
		ssize_t n = write(out->fd, out->bytes + at, out->used - at);
		if (n > 0)
			at += (size_t)n;
		else if (n < 0 && errno != EINTR)
			out->error = -errno;
	}
	out->used = 0;
}

void writer_write(struct writer *out, const char *bytes, size_t length)
{
	while (length) {
		if (out->used == WRITER_BYTES)
			writer_flush(out);
		size_t part = WRITER_BYTES - out->used;
		if (part > length)
			part = length;
		memcpy(out->bytes + out->used, bytes, part);
		out->used += part;
		bytes += part;
		length -= part;
	}
}

void writer_text(struct writer *out, const char *text)
{
	writer_write(out, text, strlen(text));
}

void writer_printable(struct writer *out, const char *text)
{
	for (size_t left = strlen(text); left;) {
		size_t plain = escape_plain(text, left), taken = plain ? plain : 1;
		char escaped[ESCAPE_MOST];
		if (plain) {
			writer_write(out, text, plain);
		} else {
			escape_byte(escaped, *text);
			writer_write(out, escaped, ESCAPE_MOST);
		}
		text += taken;
		left -= taken;
	}
}

void writer_char(struct writer *out, char c)
{
	writer_write(out, &c, 1);
}

void writer_u64(struct writer *out, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	writer_write(out, digits + at, sizeof(digits) - at);
}

void writer_i64(struct writer *out, int64_t value)
{
	if (value < 0)
		writer_char(out, '-');
	writer_u64(out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void writer_hex(struct writer *out, uint64_t value)
{
	char digits[18];
	size_t at = sizeof(digits);
	do {
		digits[--at] = "0123456789abcdef"[value & 15];
		value >>= 4;
	} while (value);
	digits[--at] = 'x';
	digits[--at] = '0';
	writer_write(out, digits + at, sizeof(digits) - at);
}

void writer_fraction(struct writer *out, uint64_t value, unsigned digits)
{
	char text[20];
	for (unsigned i = digits; i--; value /= 10)
		text[i] = (char)('0' + value % 10);
	writer_write(out, text, digits);
}

int writer_close(struct writer *out, int keep)
{
	writer_flush(out);
	if (out->path) {
		if (close(out->fd) && !out->error)
			out->error = -errno;
		if (out->temporary && keep && !out->error && rename(out->temporary, out->path))
			out->error = -errno;
		if (out->temporary && (!keep || out->error))
			unlink(out->temporary);
		free(out->temporary);
		free(out->path);
	}
	return out->error;
}
