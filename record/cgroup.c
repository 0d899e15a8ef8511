/* SPDX-License-Identifier: MIT
 *
 * See cgroup.h. In a container the path that /proc tells may not be there: then the groups above it
 * are, up to the container's own.
 */
#include "cgroup.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOT "/sys/fs/cgroup"

static uint64_t read_limit(const char *folder, const char *path, const char *file)
{
	char name[PATH_MAX], text[32] = "";
	uint64_t limit = UINT64_MAX;
	char *end;
	FILE *in;

	snprintf(name, sizeof(name), ROOT "%s%s/%s", folder, path, file);
	in = fopen(name, "re");
	if (in == NULL)
		return limit;
	if (fgets(text, sizeof(text), in) != NULL && text[0] >= '0' && text[0] <= '9')
		limit = strtoull(text, &end, 10);
	fclose(in);
	return limit;
}

/* Of the group and those above it. Changes `path`. */
static uint64_t least_limit(const char *folder, char *path, const char *file)
{
	uint64_t least = UINT64_MAX;

	for (;;) {
		uint64_t limit = read_limit(folder, path, file);
		char *slash = strrchr(path, '/');

		least = limit < least ? limit : least;
		if (slash == NULL)
			return least;
		*slash = '\0';
	}
}

/* Whether "memory" is one of the names. */
static bool has_memory(char *controllers)
{
	for (char *name; (name = strsep(&controllers, ",")) != NULL;)
		if (strcmp(name, "memory") == 0)
			return true;
	return false;
}

/* "0::/path", or "9:cpu,memory:/path" of version 1. */
static uint64_t limit_of_line(char *line)
{
	char *controllers = strchr(line, ':');
	char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;

	if (path == NULL)
		return UINT64_MAX;
	*path++ = '\0';
	path[strcspn(path, "\n")] = '\0';
	if (controllers[1] == '\0')
		return least_limit("", path, "memory.max");
	return has_memory(controllers + 1) ? least_limit("/memory", path, "memory.limit_in_bytes")
					   : UINT64_MAX;
}

uint64_t cgroup_memory_limit(void)
{
	FILE *in = fopen("/proc/self/cgroup", "re");
	uint64_t least = UINT64_MAX;
	char line[PATH_MAX];

	while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
		uint64_t limit = limit_of_line(line);

		least = limit < least ? limit : least;
	}
	if (in != NULL)
		fclose(in);
	return least;
}
