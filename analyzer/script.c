/* SPDX-License-Identifier: MIT
 *
 * Finds and starts a report script: in HEAPLEDGER_REPORTS if that is set, in the build tree when we
 * run from there, else where it was installed.
 */
#include "script.h"
#include "tool.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool own_path(char *path, size_t size)
{
	ssize_t length = readlink("/proc/self/exe", path, size - 1);
	if (length <= 0)
		return false;
	path[length] = 0;
	return true;
}

/* Only the executable in the build folder may use the source tree. */
static bool in_build_tree(const char *self)
{
	size_t length = strlen(HEAPLEDGER_BUILD_DIR);
	return !strncmp(self, HEAPLEDGER_BUILD_DIR, length) && self[length] == '/';
}

/* An installation may be staged or moved: look beside ourselves before the configured place. */
static int find_script(char *path, size_t size, const char *self, const char *script)
{
	const char *folder = getenv("HEAPLEDGER_REPORTS");
	const char *slash = strrchr(self, '/');
	if (!folder || !*folder) {
		folder = HEAPLEDGER_REPORTS_DIR;
		int length = snprintf(path, size, "%.*s/../share/heapledger/reports/%s",
			(int)(slash - self), self, script);
		if (in_build_tree(self))
			folder = HEAPLEDGER_REPORTS_SOURCE;
		else if ((size_t)length < size && !access(path, R_OK))
			return 0;
	}
	if ((size_t)snprintf(path, size, "%s/%s", folder, script) >= size)
		return -ENAMETOOLONG;
	return access(path, R_OK) ? -errno : 0;
}

int script_run(const char *script, int argc, char **argv)
{
	char self[PATH_MAX];
	char path[PATH_MAX];
	if (!own_path(self, sizeof(self)))
		return tool_fail(TOOL_UNREADABLE, argv[0], "cannot find out where heapledger is");
	int rc = find_script(path, sizeof(path), self, script);
	if (rc)
		return tool_fail(TOOL_UNREADABLE, argv[0], "%s: %s (are the reports installed?)",
			path, strerror(-rc));
	char **arguments = calloc((size_t)argc + 2, sizeof(char *));
	if (!arguments || setenv("HEAPLEDGER_BIN", self, 1)) {
		free(arguments);
		return tool_fail(TOOL_UNREADABLE, argv[0], "not enough memory");
	}
	char python[] = HEAPLEDGER_PYTHON;
	arguments[0] = python;
	arguments[1] = path;
	memcpy(arguments + 2, argv + 1, (size_t)(argc - 1) * sizeof(char *));
	execvp(python, arguments);
	rc = errno;
	free(arguments);
	return tool_fail(TOOL_UNREADABLE, argv[0], "%s: %s", python, strerror(rc));
}
