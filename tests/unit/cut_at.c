/* SPDX-License-Identifier: MIT
 *
 * For tests/commands/test_ring.py: cuts a stream of a closed trace at the time of one of its records,
 * as `record --ring` does, and prints the tick.
 *
 *     cut_at DIR FILE PART CHILD...    PART of 1000 of the records are before; a CHILD is FORK_ID:TICK
 *                                      of a stream that begins with the heap as it was then
 */
#include "compact.h"

#include "analyzer/stream_reader.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_CHILDREN 64

static uint64_t tick_of(int dirfd, const char *name, uint64_t part)
{
	const struct stream_event *event;
	struct stream_reader *reader;
	struct stat status;
	uint64_t tick = 0, count = 0;
	int fd = openat(dirfd, name, O_RDONLY);

	if (fd < 0 || fstat(fd, &status) != 0)
		return 0;
	struct stream_input input = {.fd = fd, .size = (uint64_t)status.st_size, .name = name};
	if (stream_reader_open(&reader, &input) == 0) {
		uint64_t wanted = stream_reader_info(reader)->records * part / 1000;

		while (count++ < wanted && stream_reader_next(reader, &event) > 0)
			tick = event->record.word[0];
	}
	stream_reader_close(reader);
	close(fd);
	return tick;
}

int main(int argc, char **argv)
{
	struct compact_child children[MOST_CHILDREN];
	struct compact_result result;
	uint64_t bytes;
	int dirfd = argc >= 4 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1, rc;

	if (dirfd < 0 || argc - 4 > MOST_CHILDREN)
		return 2;
	for (int i = 4; i < argc; i++) {
		children[i - 4].gone = false;
		if (sscanf(argv[i], "%" SCNu64 ":%" SCNu64, &children[i - 4].fork_id,
			    &children[i - 4].start_tick) != 2)
			return 2;
	}
	struct compact_request request = {.dirfd = dirfd,
		.name = argv[2],
		.cut = tick_of(dirfd, argv[2], strtoul(argv[3], NULL, 10)),
		.children = children,
		.child_count = (size_t)(argc - 4)};
	if (request.cut == 0)
		return 3;
	rc = compact_write(&request, &result);
	if (rc == 0)
		rc = compact_close(&request, &result, &bytes);
	if (rc != 0) {
		fprintf(stderr, "%s: %d\n", argv[2], rc);
		return 1;
	}
	printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", request.cut, result.events, result.syscalls);
	return 0;
}
