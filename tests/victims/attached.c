/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_attach.py. Holds some blocks and a mapping; says its thread id
 * and waits for lines of standard input. Each line is an order, which it carries out and then says
 * what it did, in counts, on a line of its own:
 *
 *     calls THREADS ROUNDS   allocator calls of each kind, in so many threads at once
 *     maps ROUNDS            system calls of each kind, one after the other, and a mapping that
 * stays children COUNT         children that do `maps 1` each and end, half of them by vfork and
 * exec old                    frees blocks that were there before the first order break KIB moves
 * the break nothing
 */
#include "victim.h"

#include <malloc.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OLD 100
#define PAGE 4096

extern char **environ;

static void *old[OLD];
static const char *self;

static void *run_calls(void *rounds)
{
	for (long i = 0; i < (long)rounds; i++) {
		void *block = opaque(malloc((size_t)i % 700 + 1));

		block = opaque(realloc(block, (size_t)i % 3000 + 1));
		free(block);
		free(opaque(calloc(3, (size_t)i % 90 + 1)));
		free(opaque(memalign(256, 100)));
		REQUIRE(posix_memalign(&block, 64, (size_t)i % 300 + 1) == 0);
		free(block);
		free(opaque(realloc(NULL, 50)));
		free(NULL);
		opaque(malloc(10)); /* stays */
	}
	return NULL;
}

static void calls(int threads, long rounds)
{
	static pthread_t thread[64];

	for (int i = 1; i < threads; i++)
		REQUIRE(pthread_create(&thread[i], NULL, run_calls, (void *)rounds) == 0);
	run_calls((void *)rounds);
	for (int i = 1; i < threads; i++)
		pthread_join(thread[i], NULL);
}

static void maps(long rounds)
{
	char *kept;

	for (long i = 0; i < rounds; i++) {
		char *at = mmap(
			NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		REQUIRE(at != MAP_FAILED);
		memset(at, 1, 4 * PAGE);
		REQUIRE(mprotect(at, 4 * PAGE, PROT_READ) == 0);
		REQUIRE(madvise(at + PAGE, PAGE, MADV_DONTNEED) == 0);
		at = mremap(at, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
		REQUIRE(at != MAP_FAILED && munmap(at, 8 * PAGE) == 0);
	}
	kept = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(kept != MAP_FAILED && mprotect(kept, PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void children(int count)
{
	char order[] = "once";
	char *argv[] = {(char *)self, order, NULL};
	int status;

	for (volatile int i = 0; i < count; i++) {
		pid_t pid = i % 2 ? vfork() : fork();

		if (pid == 0) {
			if (i % 2)
				execve(self, argv, environ);
			else
				maps(1);
			_exit(i % 2 ? 9 : 7);
		}
		REQUIRE(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
	}
}

static void obey(const char *line)
{
	long a = 0, b = 0;

	if (sscanf(line, "calls %ld %ld", &a, &b) == 2)
		calls((int)a, b);
	else if (sscanf(line, "maps %ld", &a) == 1)
		maps(a);
	else if (sscanf(line, "children %ld", &a) == 1)
		children((int)a);
	else if (sscanf(line, "break %ld", &a) == 1)
		REQUIRE(syscall(SYS_brk, (long)sbrk(0) + a * 1024) != 0);
	else if (strncmp(line, "old", 3) == 0)
		for (int i = 0; i < OLD; i++)
			free(old[i]);
}

int main(int argc, char **argv)
{
	static char line[200], output[1000];

	self = argv[0];
	if (argc > 1) { /* a child's */
		maps(1);
		return 7;
	}
	setvbuf(stdout, output, _IOFBF, sizeof(output));
	for (int i = 0; i < OLD; i++)
		old[i] = opaque(malloc(1000));
	puts("ready");
	fflush(stdout);
	/* Read without stdio, which would allocate. */
	for (;;) {
		ssize_t got = read(STDIN_FILENO, line, sizeof(line) - 1);

		if (got <= 0)
			return 3;
		line[got] = '\0';
		obey(line);
		puts("done");
		fflush(stdout);
	}
}
