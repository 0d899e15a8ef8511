/* SPDX-License-Identifier: MIT
 *
 * See mark.h. The path of a socket is short, that of a trace may not be: it is named by way of the
 * directory's descriptor.
 */
#include "mark.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MS 5000

static struct sockaddr_un address_in(int dirfd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(
		address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" MARK_SOCKET, dirfd);
	return address;
}

int mark_open(int dirfd)
{
	struct sockaddr_un address = address_in(dirfd);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;

	if (fd < 0)
		return -errno;
	/* The mode of a socket is that of its descriptor when it gets a name. */
	if (fchmod(fd, 0600) == 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

void mark_close(int fd, int dirfd)
{
	if (fd < 0)
		return;
	unlinkat(dirfd, MARK_SOCKET, 0);
	close(fd);
}

int mark_receive(int fd, struct mark_request *request)
{
	for (;;) {
		*request = (struct mark_request){.from_bytes = sizeof(request->from)};
		ssize_t got = recvfrom(fd, request->name, sizeof(request->name), MSG_TRUNC,
			(struct sockaddr *)&request->from, &request->from_bytes);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return 0;
		/* Not from us. */
		if (got == 0 || (size_t)got >= sizeof(request->name) ||
			memchr(request->name, '\0', (size_t)got) != NULL)
			continue;
		return 1;
	}
}

void mark_answer(int fd, const struct mark_request *request, uint32_t processes)
{
	/* A sender that is gone does not want to know. */
	if (sendto(fd, &processes, sizeof(processes), MSG_NOSIGNAL,
		    (const struct sockaddr *)&request->from, request->from_bytes) < 0)
		return;
}

static int exchange(int fd, const struct sockaddr_un *to, const char *name)
{
	struct sockaddr_un own = {.sun_family = AF_UNIX};
	struct pollfd answer = {.fd = fd, .events = POLLIN};
	uint32_t processes;
	int rc;

	/* A name of the kernel's choice, so that there can be an answer. */
	if (bind(fd, (struct sockaddr *)&own, sizeof(own.sun_family)) != 0)
		return -errno;
	if (sendto(fd, name, strlen(name), MSG_NOSIGNAL, (const struct sockaddr *)to, sizeof(*to)) <
		0)
		return errno == ENOENT ? -ECONNREFUSED : -errno;
	do
		rc = poll(&answer, 1, ANSWER_MS);
	while (rc < 0 && errno == EINTR);
	if (rc <= 0)
		return rc < 0 ? -errno : -ETIMEDOUT;
	if (recv(fd, &processes, sizeof(processes), 0) != sizeof(processes))
		return -EPROTO;
	return processes < INT32_MAX ? (int)processes : INT32_MAX;
}

int mark_send(int dirfd, const char *name)
{
	struct sockaddr_un address = address_in(dirfd);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return -errno;
	rc = exchange(fd, &address, name);
	close(fd);
	return rc;
}
