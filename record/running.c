/* SPDX-License-Identifier: MIT
 *
 * See running.h. A process keeps its file mapped for writing until its end, so nobody is granted a
 * lease for reading before, whatever namespaces lie between. On file systems stacked on another the
 * mapping is of the file beneath, and there may be no leases: there /proc is asked for the mapping.
 */
#include "running.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_written(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
		fcntl(fd, F_SETLEASE, F_UNLCK);
		return false;
	}
	return errno == EAGAIN;
}

/* A line of maps ends with the file's path. */
static bool is_named(const char *line, const char *name)
{
	size_t length = strcspn(line, "\n"), tail = strlen(name);

	return length > tail && line[length - tail - 1] == '/' &&
	       memcmp(line + length - tail, name, tail) == 0;
}

static bool maps_it(const char *pid, const char *name)
{
	char path[64], line[8192];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%.20s/maps", pid);
	maps = fopen(path, "re");
	if (maps == NULL)
		return errno != ENOENT && errno != ESRCH;
	while (!found && fgets(line, sizeof(line), maps) != NULL)
		found = is_named(line, name);
	fclose(maps);
	return found;
}

static bool anybody_maps_it(const char *name)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	bool found = proc == NULL;

	while (!found && (entry = readdir(proc)) != NULL)
		found = isdigit((unsigned char)entry->d_name[0]) && maps_it(entry->d_name, name);
	if (proc != NULL)
		closedir(proc);
	return found;
}

bool running(int fd, const char *name, uint32_t pid, uint64_t pid_namespace)
{
	struct stat ours;
	char text[16];

	if (is_written(fd))
		return true;
	if (stat("/proc/self/ns/pid", &ours) == 0 && pid_namespace != 0 &&
		ours.st_ino != pid_namespace)
		return anybody_maps_it(name);
	snprintf(text, sizeof(text), "%u", pid);
	return maps_it(text, name);
}
