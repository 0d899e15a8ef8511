/* SPDX-License-Identifier: MIT
 *
 * See sample.h.
 */
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_BYTES 4096

/* linux/pidfd.h of 6.15, which Debian 12 does not have: the exit code of a process that its parent
 * has waited for. An older kernel refuses the call. */
struct pidfd_exit_info {
	uint64_t mask;
	uint64_t cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};
#define PIDFD_GET_EXIT_INFO _IOWR(0xFF, 11, struct pidfd_exit_info)
#define PIDFD_EXIT_INFO UINT64_C(8)
static_assert(sizeof(struct pidfd_exit_info) == 64, "the first published size");

static int read_file(char *buffer, pid_t pid, const char *name)
{
	char path[64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, buffer, FILE_BYTES - 1);
	if (got < 0)
		got = -errno;
	close(fd);
	if (got <= 0)
		return got < 0 ? (int)got : -ENODATA;
	buffer[got] = '\0';
	return 0;
}

uint64_t sample_kib_line(const char *text, const char *name)
{
	const char *line = strstr(text, name);

	return line == NULL ? 0 : strtoull(line + strlen(name), NULL, 10) * 1024;
}

/* Field `number` of /proc/PID/stat, counted from 1 as in proc(5); from 3 on. */
static const char *stat_field(const char *stat, int number)
{
	const char *at = strrchr(stat, ')');

	for (int field = 2; at != NULL && field < number; field++) {
		at = strchr(at, ' ');
		if (at != NULL)
			at++;
	}
	return at;
}

static void read_faults(pid_t pid, uint64_t *minor, uint64_t *major)
{
	char text[FILE_BYTES];
	const char *field;

	*minor = 0;
	*major = 0;
	if (read_file(text, pid, "stat") != 0)
		return;
	field = stat_field(text, 10);
	*minor = field == NULL ? 0 : strtoull(field, NULL, 10);
	field = stat_field(text, 12);
	*major = field == NULL ? 0 : strtoull(field, NULL, 10);
}

int sample_read(struct hl_sample_record *sample, pid_t pid)
{
	char text[FILE_BYTES];
	int rc = read_file(text, pid, "status");

	if (rc != 0)
		return rc;
	if (strstr(text, "\nVmHWM:") == NULL)
		return -ESRCH; /* a zombie */
	*sample = (struct hl_sample_record){
		.kind_addr = hl_kind_addr(HL_KIND_sample, 0),
		.rss_anon = sample_kib_line(text, "\nRssAnon:"),
		.rss_file = sample_kib_line(text, "\nRssFile:"),
		.rss_shmem = sample_kib_line(text, "\nRssShmem:"),
		.swap = sample_kib_line(text, "\nVmSwap:"),
		.rss_peak = sample_kib_line(text, "\nVmHWM:"),
	};
	read_faults(pid, &sample->minor_faults, &sample->major_faults);
	return 0;
}

int sample_rollup(struct hl_sample_record *sample, pid_t pid)
{
	char text[FILE_BYTES];
	int rc = read_file(text, pid, "smaps_rollup");

	if (rc != 0)
		return rc;
	sample->anonymous = sample_kib_line(text, "\nAnonymous:");
	sample->anon_huge = sample_kib_line(text, "\nAnonHugePages:");
	return 0;
}

uint64_t sample_faults(pid_t pid)
{
	uint64_t minor, major;

	read_faults(pid, &minor, &major);
	return minor + major;
}

enum hl_trace_end sample_wait_status(int status, int32_t *end_status)
{
	if (WIFSIGNALED(status)) {
		*end_status = WTERMSIG(status);
		return HL_TRACE_END_SIGNAL;
	}
	*end_status = WEXITSTATUS(status);
	return HL_TRACE_END_EXIT;
}

enum hl_trace_end sample_end(pid_t pid, int pidfd, int32_t *end_status)
{
	struct pidfd_exit_info info = {.mask = PIDFD_EXIT_INFO};
	char text[FILE_BYTES];
	const char *field;

	*end_status = -1;
	if (pidfd < 0)
		return HL_TRACE_END_UNKNOWN;
	/* Still a zombie: its exit code is the last field of stat. */
	if (read_file(text, pid, "stat") == 0) {
		field = stat_field(text, 3);
		if (field != NULL && *field == 'Z' && (field = stat_field(text, 52)) != NULL)
			return sample_wait_status(atoi(field), end_status);
	}
	if (ioctl(pidfd, PIDFD_GET_EXIT_INFO, &info) == 0 && (info.mask & PIDFD_EXIT_INFO) != 0)
		return sample_wait_status(info.exit_code, end_status);
	return HL_TRACE_END_UNKNOWN;
}
