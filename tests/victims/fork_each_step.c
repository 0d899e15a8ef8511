/* SPDX-License-Identifier: MIT
 *
 * Steps through allocator calls instruction by instruction, each of them again and again: a signal
 * handler forks at the OFFSET-th instruction, at the one STRIDE further, and so on to the call's end.
 * Parent and child both go on with the call, and each child gives back what it has got, so that it
 * ends with the blocks that there were before: none. Prints how many forks there were.
 *
 *     fork_each_step STRIDE OFFSET
 */
#include "victim.h"

#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define TRAP_FLAG 0x100
#define LARGE ((size_t)1 << 20)

static volatile sig_atomic_t in_child;
static long steps;
static long fork_at;
static long forks;

static void stepped(int number, siginfo_t *info, void *context)
{
	ucontext_t *interrupted = context;
	int status = 0;
	pid_t child;

	(void)number;
	(void)info;
	if (++steps != fork_at)
		return;
	forks++;
	child = fork();
	if (child == 0) {
		alarm(20);
		in_child = 1;
		interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
		return;
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 3 << 8)
		_exit(9);
}

static inline void step(void)
{
	__asm__ volatile("pushfq\n\torq %0, (%%rsp)\n\tpopfq" ::"i"(TRAP_FLAG) : "cc", "memory");
}

static inline void run(void)
{
	__asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" ::"i"(~TRAP_FLAG) : "cc", "memory");
}

static void end_child(void *block)
{
	if (!in_child)
		return;
	free(block);
	_exit(3);
}

static void try_malloc(size_t size, size_t unused)
{
	char *block;

	(void)unused;
	step();
	block = malloc(size);
	run();
	REQUIRE(block != NULL);
	block[size - 1] = 1;
	end_child(block);
	free(block);
}

static void try_free(size_t size, size_t unused)
{
	char *block = malloc(size);

	(void)unused;
	step();
	free(block);
	run();
	end_child(NULL);
}

static void try_realloc(size_t from, size_t to)
{
	char *block = malloc(from);

	REQUIRE(block != NULL);
	block[from - 1] = 7;
	step();
	block = realloc(block, to);
	run();
	REQUIRE(block != NULL && (to < from || block[from - 1] == 7));
	end_child(block);
	free(block);
}

static void try_aligned(size_t size, size_t alignment)
{
	void *block = NULL;
	int rc;

	step();
	rc = posix_memalign(&block, alignment, size);
	run();
	REQUIRE(rc == 0);
	end_child(block);
	free(block);
}

static const struct {
	void (*try)(size_t, size_t);
	size_t first;
	size_t second;
} calls[] = {
	{try_malloc, 40, 0},
	{try_free, 40, 0},
	{try_malloc, 5000, 0},
	{try_free, 5000, 0},
	{try_realloc, 100, 3000},
	{try_realloc, 40000, 200},
	{try_aligned, 300, 256},
	{try_malloc, LARGE, 0},
	{try_free, LARGE, 0},
	{try_realloc, LARGE, 2 * LARGE},
};

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};

	REQUIRE(argc == 3);
	alarm(400);
	REQUIRE(mallopt(M_MMAP_THRESHOLD, 1 << 17)); /* else the second large block is on the heap */
	sigaction(SIGTRAP, &action, NULL);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		fork_at = atol(argv[2]);
		do {
			steps = 0;
			calls[i].try(calls[i].first, calls[i].second);
			fork_at += atol(argv[1]);
		} while (steps >= fork_at - atol(argv[1]));
	}
	dprintf(STDOUT_FILENO, "%ld\n", forks);
	return 0;
}
