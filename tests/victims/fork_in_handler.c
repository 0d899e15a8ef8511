/* SPDX-License-Identifier: MIT
 *
 * A signal handler forks while it interrupts an allocator call of its own thread, which may hold a
 * lock of the heap. fork is allowed in a handler; neither side may hang, and both go on with the
 * interrupted call.
 */
#include "victim.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define FORKS 150
#define BLOCKS 64

static volatile sig_atomic_t forks;
static volatile sig_atomic_t in_child;

/* Writes at once: stdio's buffers may be in the hands of what was interrupted. */
static _Noreturn void fail(const char *what, int value)
{
	char text[80];
	int bytes = snprintf(text, sizeof(text), "fork %d: %s %#x\n", forks, what, (unsigned)value);

	if (write(STDERR_FILENO, text, (size_t)bytes) < 0)
		_exit(8);
	_exit(9);
}

static void handler(int number)
{
	pid_t child;
	int status = 0;

	(void)number;
	if (forks == FORKS) /* the timer goes on */
		return;
	child = fork();
	if (child == 0) {
		alarm(20);
		if (forks % 2 == 0)
			_exit(3);
		in_child = 1;
		return;
	}
	if (child < 0)
		fail("refused: errno", errno);
	if (waitpid(child, &status, 0) != child)
		fail("cannot be waited for: errno", errno);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 3)
		fail("the child ended with status", status);
	forks++;
}

int main(void)
{
	const struct itimerval often = {{0, 1000}, {0, 1000}};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	char *block[BLOCKS] = {NULL};
	unsigned random = 1;

	alarm(100);
	sigaction(SIGPROF, &action, NULL);
	REQUIRE(setitimer(ITIMER_PROF, &often, NULL) == 0);
	while (forks < FORKS && !in_child) {
		unsigned i = (random = random * 1103515245 + 12345) >> 16 & (BLOCKS - 1);
		size_t bytes = (random >> 8 & 0x3fff) + 2000;

		free(block[i]);
		block[i] = malloc(bytes);
		REQUIRE(block[i] != NULL);
		memset(block[i], (int)i, bytes);
	}
	for (int i = 0; i < BLOCKS; i++) {
		REQUIRE(block[i] == NULL || block[i][1999] == i);
		free(block[i]);
	}
	_exit(in_child ? 3 : 0);
}
