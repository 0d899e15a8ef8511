/* SPDX-License-Identifier: MIT
 *
 * A text file as a source of lines (text_lines.h). zlib passes on what is not gzip's as it is; if
 * that begins as zstd's frames do, it is decompressed here.
 */
#include "text_lines.h"

#include <zlib.h>
#include <zstd.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IN_BYTES (128u << 10)
#define MAGIC_BYTES 4

struct text_source {
	gzFile file;
	ZSTD_DCtx *zstd; /* NULL: what zlib reads is the text */
	char *in;
	size_t at;
	size_t end;
	bool begun;
	bool in_frame;
	bool more; /* zstd has text for which there was no room */
	char error[128];
};

static int fail(struct text_source *source, int rc, const char *what)
{
	snprintf(source->error, sizeof(source->error), "%s", what);
	return rc;
}

int text_source_open(struct text_source **out, int fd)
{
	struct text_source *source = *out = calloc(1, sizeof(*source));

	if (source != NULL)
		source->file = gzdopen(fd, "rb");
	if (source == NULL || source->file == NULL) {
		close(fd);
		return -ENOMEM;
	}
	gzbuffer(source->file, IN_BYTES);
	source->in = malloc(IN_BYTES);
	return source->in != NULL ? 0 : -ENOMEM;
}

void text_source_close(struct text_source *source)
{
	if (source == NULL)
		return;
	if (source->file != NULL)
		gzclose_r(source->file);
	ZSTD_freeDCtx(source->zstd);
	free(source->in);
	free(source);
}

const char *text_source_error(const struct text_source *source)
{
	return source != NULL ? source->error : strerror(ENOMEM);
}

static ssize_t read_file(struct text_source *source, char *to, size_t bytes)
{
	unsigned most = bytes < IN_BYTES ? (unsigned)bytes : IN_BYTES;
	int n, code;

	errno = 0;
	n = gzread(source->file, to, most);
	if (n > 0)
		return n;
	gzerror(source->file, &code);
	if (code == Z_ERRNO)
		return fail(source, -EIO, strerror(errno != 0 ? errno : EIO));
	if (code == Z_BUF_ERROR)
		return fail(source, -EBADMSG, "the compressed data is cut off");
	if (n < 0)
		return fail(source, -EBADMSG, "the compressed data is damaged");
	return 0;
}

/* What kind of file it is. */
static int look(struct text_source *source)
{
	source->begun = true;
	while (source->end < MAGIC_BYTES) {
		ssize_t n = read_file(source, source->in + source->end, IN_BYTES - source->end);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return 0;
		source->end += (size_t)n;
	}
	if (memcmp(source->in, "PK\3\4", MAGIC_BYTES) == 0)
		return fail(source, -EBADMSG,
			"a zip archive: unpack it, or `unzip -p` it into `heapledger import -`");
	if (memcmp(source->in, "\x28\xb5\x2f\xfd", MAGIC_BYTES) != 0)
		return 0;
	source->zstd = ZSTD_createDCtx();
	return source->zstd != NULL ? 0 : fail(source, -ENOMEM, strerror(ENOMEM));
}

static ssize_t refill(struct text_source *source)
{
	ssize_t n = read_file(source, source->in, IN_BYTES);

	source->at = 0;
	source->end = n > 0 ? (size_t)n : 0;
	return n;
}

/* What did not fit the last time is still in the decompressor. */
static ssize_t decompress(struct text_source *source, char *to, size_t bytes)
{
	ZSTD_outBuffer out = {to, bytes, 0};

	while (out.pos == 0) {
		ssize_t n = source->at == source->end && !source->more ? refill(source) : 1;
		ZSTD_inBuffer in = {source->in, source->end, source->at};
		size_t left;

		if (n < 0)
			return n;
		if (n == 0 && source->in_frame)
			return fail(source, -EBADMSG, "the compressed data is cut off");
		if (n == 0)
			return 0;
		left = ZSTD_decompressStream(source->zstd, &out, &in);
		if (ZSTD_isError(left))
			return fail(source, -EBADMSG, "the compressed data is damaged");
		source->at = in.pos;
		source->in_frame = left != 0;
		source->more = out.pos == bytes;
	}
	return (ssize_t)out.pos;
}

ssize_t text_source_read(void *opaque, char *to, size_t bytes)
{
	struct text_source *source = opaque;
	size_t there;
	int rc = source->begun ? 0 : look(source);

	if (rc != 0)
		return rc;
	if (source->zstd != NULL)
		return decompress(source, to, bytes);
	there = source->end - source->at;
	if (there == 0)
		return read_file(source, to, bytes);
	there = there < bytes ? there : bytes;
	memcpy(to, source->in + source->at, there);
	source->at += there;
	return (ssize_t)there;
}
