/* SPDX-License-Identifier: MIT
 *
 * tracefs.h. Where tracefs is not mounted (a minimal system), an instance is opened without being
 * put anywhere in the file tree, and goes when its descriptor is closed.
 */
#include "tracefs.h"

#include <bpf/libbpf.h>
#include <linux/perf_event.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINGER_US 200000

struct tracefs_links {
	size_t count;
	struct bpf_link *link[]; /* ends, then beginnings */
};

static int open_detached(void)
{
	int context = fsopen("tracefs", FSOPEN_CLOEXEC);
	int fd = -1;

	if (context < 0)
		return -errno;
	if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
	if (fd < 0)
		fd = -errno;
	close(context);
	return fd;
}

static int open_root(void)
{
	static const char *const places[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int fd = open(places[i], O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0 && faccessat(fd, "events/syscalls", R_OK, AT_EACCESS) == 0)
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return open_detached();
}

static long read_id(int root, const char *event)
{
	char path[96], text[24];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "events/%s/id", event);
	fd = openat(root, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return -EIO;
	text[got] = '\0';
	return strtol(text, NULL, 10);
}

/* A program on a tracepoint runs for every process on every CPU, whatever the perf event that
 * carries it was opened for. */
static int attach_one(
	struct tracefs_links *links, int root, const char *event, struct bpf_program *program)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attributes),
		.sample_period = 1,
		.wakeup_events = 1,
	};
	long id = read_id(root, event);
	struct bpf_link *link;
	int fd;

	if (id < 0)
		return (int)id;
	attributes.config = (__u64)id;
	fd = (int)syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	link = bpf_program__attach_perf_event(program, fd);
	if (link == NULL) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	links->link[links->count++] = link;
	return 0;
}

static int attach_call(struct tracefs_links *links, int root, const char *phase, const char *call,
	struct bpf_program *program)
{
	char event[64];
	int rc;

	snprintf(event, sizeof(event), "syscalls/sys_%s_%s", phase, call);
	rc = attach_one(links, root, event, program);
	return rc == -ENOENT ? 0 : rc; /* a call that this kernel does not have */
}

int tracefs_attach(struct tracefs_links **out, const struct tracefs_pair *pairs, size_t count,
	struct bpf_program *leave, struct bpf_program *newtask)
{
	int root = open_root();
	struct tracefs_links *links;
	int rc = 0;

	if (root < 0)
		return root;
	links = calloc(1, sizeof(*links) + (2 * count + 1) * sizeof(struct bpf_link *));
	if (links == NULL)
		rc = -ENOMEM;
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = attach_call(links, root, "exit", pairs[i].call, leave);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = attach_call(links, root, "enter", pairs[i].call, pairs[i].enter);
	if (rc == 0 && links->count == 0)
		rc = -ENOENT;
	if (rc == 0 && newtask != NULL)
		rc = attach_one(links, root, "task/task_newtask", newtask);
	close(root);
	if (rc != 0)
		tracefs_detach(links);
	else
		*out = links;
	return rc;
}

/* A line of a format is "field:pid_t pid;	offset:8;	size:4;	signed:1;". */
static int find_offset(FILE *format, const char *field, unsigned bytes)
{
	char line[256], name[64];
	unsigned offset, size;

	while (fgets(line, sizeof(line), format) != NULL) {
		char *end = strchr(line, ';');
		char *start = end != NULL ? memrchr(line, ' ', (size_t)(end - line)) : NULL;

		if (start == NULL ||
			sscanf(start, " %63[^;]; offset:%u; size:%u;", name, &offset, &size) != 3)
			continue;
		if (strcmp(name, field) == 0)
			return size == bytes ? (int)offset : -EOPNOTSUPP;
	}
	return -EOPNOTSUPP;
}

int tracefs_offset(const char *event, const char *field, unsigned bytes)
{
	int root = open_root(), fd, rc;
	char path[96];
	FILE *format;

	if (root < 0)
		return root;
	snprintf(path, sizeof(path), "events/%s/format", event);
	fd = openat(root, path, O_RDONLY | O_CLOEXEC);
	rc = fd < 0 ? -errno : 0;
	close(root);
	if (rc != 0)
		return rc;
	format = fdopen(fd, "r");
	if (format == NULL) {
		close(fd);
		return -ENOMEM;
	}
	rc = find_offset(format, field, bytes);
	fclose(format);
	return rc;
}

void tracefs_detach(struct tracefs_links *links)
{
	if (links == NULL)
		return;
	while (links->count > 0)
		bpf_link__destroy(links->link[--links->count]);
	free(links);
}

static int by_number(const void *left, const void *right)
{
	return *(const int *)left - *(const int *)right;
}

/* In the child: nothing that its parent has open may stay open for longer because of us, neither a
 * pipe that somebody reads to its end nor a folder. */
static void close_all_but(int *keep, size_t count)
{
	unsigned from = 0;

	qsort(keep, count, sizeof(*keep), by_number);
	for (size_t i = 0; i < count; i++) {
		if ((unsigned)keep[i] > from)
			close_range(from, (unsigned)keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	close_range(from, ~0U, 0);
}

static void hold(const struct tracefs_links *links, int gate)
{
	int keep[links->count + 1];
	ssize_t got;
	char byte;

	for (size_t i = 0; i < links->count; i++)
		keep[i] = bpf_link__fd(links->link[i]);
	keep[links->count] = gate;
	setsid();
	if (chdir("/") != 0)
		_exit(1);
	close_all_but(keep, links->count + 1);
	do
		got = read(gate, &byte, 1);
	while (got < 0 && errno == EINTR);
	usleep(LINGER_US);
	_exit(0);
}

int tracefs_hand_over(const struct tracefs_links *links)
{
	int gate[2];
	pid_t child;

	if (links == NULL || pipe2(gate, O_CLOEXEC) != 0)
		return -1;
	child = fork();
	if (child == 0)
		hold(links, gate[0]);
	close(gate[0]);
	if (child > 0)
		return gate[1];
	close(gate[1]);
	return -1;
}
