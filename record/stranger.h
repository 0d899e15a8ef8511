/* SPDX-License-Identifier: MIT
 *
 * Whom the names of files are taken from: in a directory that others write to, such as /tmp,
 * anybody can put a link or a pipe where we are about to write. Used wherever the tools make files.
 */
#ifndef HEAPLEDGER_RECORD_STRANGER_H
#define HEAPLEDGER_RECORD_STRANGER_H

#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static inline bool stranger_owns(const struct stat *status)
{
	return status->st_uid != geteuid() && status->st_uid != 0;
}

/* Whether the path is a symbolic link of somebody else than us and root. */
static inline bool stranger_links(const char *path)
{
	char name[PATH_MAX];
	size_t length = strlen(path);
	struct stat status;

	while (length > 1 && path[length - 1] == '/')
		length--; /* which would follow it */
	if (length >= sizeof(name))
		return false;
	memcpy(name, path, length);
	name[length] = '\0';
	return lstat(name, &status) == 0 && S_ISLNK(status.st_mode) && stranger_owns(&status);
}

#endif
