/* SPDX-License-Identifier: MIT
 *
 * `heapledger mark`: begins a phase in a recording that runs, from outside of it. The other end is
 * in collector.c.
 */
#include "mark.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define COMMAND "mark"

static int report(const char *directory, int rc)
{
	if (rc > 0)
		return TOOL_OK;
	if (rc == 0)
		return tool_fail(TOOL_FINDING, COMMAND,
			"%s: nothing was marked, no process is being recorded just now", directory);
	if (rc == -ECONNREFUSED)
		return tool_fail(TOOL_FINDING, COMMAND, "%s: no recording runs there", directory);
	if (rc == -ETIMEDOUT)
		return tool_fail(TOOL_NO_EVIDENCE, COMMAND,
			"%s: the recording does not answer; the phase may have begun or not",
			directory);
	return tool_fail(TOOL_UNREADABLE, COMMAND, "%s: %s", directory, strerror(-rc));
}

int cmd_mark(int argc, char **argv)
{
	int fd, rc;

	if (argc > 1 && strcmp(argv[1], "--") == 0) {
		argc--;
		argv++;
	} else if (argc > 1 && argv[1][0] == '-' && argv[1][1] != '\0') {
		return tool_fail(TOOL_USAGE, COMMAND,
			"unknown option %s (see heapledger mark --help)", argv[1]);
	}
	if (argc != 3)
		return tool_fail(TOOL_USAGE, COMMAND,
			"a trace directory and a name are needed (see heapledger mark --help)");
	if (argv[2][0] == '\0' || strlen(argv[2]) >= HL_PHASE_NAME_BYTES)
		return tool_fail(TOOL_USAGE, COMMAND,
			"a name of 1 to %d bytes is needed, this one has %zu",
			HL_PHASE_NAME_BYTES - 1, strlen(argv[2]));
	fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return tool_fail(TOOL_UNREADABLE, COMMAND, "%s: %s", argv[1], strerror(errno));
	rc = report(argv[1], mark_send(fd, argv[2]));
	close(fd);
	return rc;
}
