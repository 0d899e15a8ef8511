/* SPDX-License-Identifier: MIT
 *
 * See output.h.
 */
#include "output.h"
#include "mark.h"
#include "stranger.h"

#include "heapledger/callstack.h"
#include "heapledger/raw.h"
#include "heapledger/trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRIVATE_DIRECTORY 0700

static bool ends_with(const char *name, const char *suffix)
{
	size_t length = strlen(name), tail = strlen(suffix);

	return length > tail && strcmp(name + length - tail, suffix) == 0;
}

static bool is_dot(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool is_ours(const char *name)
{
	return strcmp(name, HL_TRACE_SESSION_FILE) == 0 ||
	       strcmp(name, HL_TRACE_SESSION_FILE ".tmp") == 0 || strcmp(name, MARK_SOCKET) == 0 ||
	       strcmp(name, "compact.tmp") == 0 || strcmp(name, HL_RAW_SERIALS) == 0 ||
	       strcmp(name, HL_STACKS_FILE) == 0 || ends_with(name, HL_TRACE_SUFFIX);
}

DIR *output_list(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);

	if (list == NULL && fd >= 0)
		close(fd);
	return list;
}

/* 1 when the directory holds a trace or nothing, 0 when it holds anything else. */
static int holds_trace(int dirfd, char *foreign, size_t bytes)
{
	bool manifest = false, streams = false, other = false;
	DIR *list = output_list(dirfd);
	struct dirent *entry;

	if (list == NULL)
		return -errno;
	foreign[0] = '\0';
	while ((entry = readdir(list)) != NULL) {
		if (is_dot(entry->d_name))
			continue;
		manifest = manifest || strcmp(entry->d_name, HL_TRACE_SESSION_FILE) == 0;
		streams = streams || ends_with(entry->d_name, HL_TRACE_SUFFIX);
		if (!is_ours(entry->d_name)) {
			other = true;
			snprintf(foreign, bytes, "%s", entry->d_name);
		}
	}
	closedir(list);
	if (other)
		return 0;
	return manifest || !streams;
}

static int remove_trace(int dirfd)
{
	DIR *list = output_list(dirfd);
	struct dirent *entry;
	int rc = 0;

	if (list == NULL)
		return -errno;
	while ((entry = readdir(list)) != NULL)
		if (is_ours(entry->d_name) && unlinkat(dirfd, entry->d_name, 0) != 0)
			rc = -errno;
	closedir(list);
	return rc;
}

/* A directory of our own, whoever may have made the name of it. */
static int open_own(const char *path, char *why, size_t why_bytes)
{
	struct stat status;
	int fd = stranger_links(path) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	if (fd < 0 || fstat(fd, &status) != 0) {
		rc = stranger_links(path) ? -EPERM : -errno;
		snprintf(why, why_bytes, "%s: %s", path,
			rc == -EPERM ? "is a link of another user, --force does not follow it"
				     : strerror(-rc));
	} else if (status.st_uid != geteuid()) {
		rc = -EPERM;
		snprintf(why, why_bytes, "%s belongs to the user %u, --force does not replace it",
			path, (unsigned)status.st_uid);
	} else {
		/* The trace is its owner's alone; where modes cannot be changed it stays as it is.
		 */
		(void)!fchmod(fd, PRIVATE_DIRECTORY);
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int open_existing(const char *path, bool force, char *why, size_t why_bytes)
{
	char foreign[256];
	int fd, rc;

	if (!force) {
		snprintf(why, why_bytes,
			"%s exists; name another directory with -o, or give --force to replace a "
			"trace",
			path);
		return -EEXIST;
	}
	fd = open_own(path, why, why_bytes);
	if (fd < 0)
		return fd;
	rc = holds_trace(fd, foreign, sizeof(foreign));
	if (rc == 0)
		snprintf(why, why_bytes,
			"%s is not a trace of heapledger (%s%s), --force does not replace it", path,
			foreign[0] != '\0' ? "it holds " : "no " HL_TRACE_SESSION_FILE, foreign);
	if (rc == 1) {
		rc = remove_trace(fd);
		if (rc == 0)
			return fd;
	}
	if (rc < 0)
		snprintf(why, why_bytes, "%s: %s", path, strerror(-rc));
	close(fd);
	return rc == 0 ? -EEXIST : rc;
}

int output_open(const char *path, bool force, bool *created, char *why, size_t why_bytes)
{
	int fd, rc;

	*created = mkdir(path, PRIVATE_DIRECTORY) == 0;
	if (!*created && errno == EEXIST)
		return open_existing(path, force, why, why_bytes);
	rc = *created ? 0 : -errno;
	fd = rc != 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (rc == 0 && fd < 0)
		rc = -errno;
	if (rc != 0)
		snprintf(why, why_bytes, "cannot create %s: %s", path, strerror(-rc));
	return rc != 0 ? rc : fd;
}

void output_hand_over(int dirfd, int fd)
{
	struct stat status;

	if (geteuid() == 0 && fstat(dirfd, &status) == 0 && status.st_uid != 0)
		(void)!fchown(fd, status.st_uid, status.st_gid);
}

void output_remove(const char *path, int dirfd, bool created)
{
	remove_trace(dirfd);
	if (created)
		rmdir(path);
}
