/* SPDX-License-Identifier: MIT
 *
 *     stacks
 *
 * Allocates in many kinds of frames. Before each allocation it writes a line
 *
 *     PID KIND SIZE FRAME...
 *
 * with the return addresses that the C library's own unwinder sees, the innermost first, from the
 * function that allocates on. Sizes are all different. For test_stacks.py.
 */
#include "victim.h"

#include <alloca.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define FRAMES 64
#define NOINLINE __attribute__((noinline))

static void *kept[4096];
static int next_size = 10000;

/* The frame of this function has another address in backtrace() than in malloc(): it is left out.
 */
static NOINLINE void allocate(const char *kind)
{
	void *frame[FRAMES];
	char line[FRAMES * 20 + 80];
	int count = backtrace(frame, FRAMES),
	    size = __atomic_fetch_add(&next_size, 1, __ATOMIC_RELAXED);
	int at = snprintf(line, sizeof(line), "%d %s %d", (int)getpid(), kind, size);

	for (int i = 1; i < count; i++)
		at += snprintf(line + at, sizeof(line) - (size_t)at, " %p", frame[i]);
	line[at++] = '\n';
	REQUIRE(write(STDOUT_FILENO, line, (size_t)at) == at);
	kept[size % 4096] = malloc((size_t)size);
	REQUIRE(kept[size % 4096] != NULL);
}

static NOINLINE void recurse(int depth, const char *kind)
{
	if (depth == 0)
		allocate(kind);
	else
		recurse(depth - 1, kind);
	__asm__ volatile("");
}

/* Its frame is found by rbp. */
static NOINLINE void with_alloca(int bytes, const char *kind)
{
	char *room = alloca((size_t)bytes);

	memset(room, bytes, (size_t)bytes);
	recurse(bytes % 4, kind);
	__asm__ volatile("" : : "r"(room) : "memory");
}

/* Its frame is realigned: the CFA is a word in the frame. */
static NOINLINE void with_alignment(int bytes, const char *kind)
{
	_Alignas(64) char room[128];

	memset(room, bytes, sizeof(room));
	REQUIRE((uintptr_t)room % 64 == 0);
	with_alloca(bytes, kind);
	__asm__ volatile("" : : "r"(room) : "memory");
}

static void on_signal(int number)
{
	recurse(number % 3, "signal");
}

static NOINLINE void in_handlers(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	stack_t stack = {.ss_sp = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		.ss_size = 65536};

	REQUIRE(stack.ss_sp != MAP_FAILED && sigaltstack(&stack, NULL) == 0);
	REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
	action.sa_flags = SA_ONSTACK;
	REQUIRE(sigaction(SIGUSR2, &action, NULL) == 0);
	for (int i = 0; i < 3; i++)
		REQUIRE(raise(SIGUSR1) == 0 && raise(SIGUSR2) == 0);
}

/* The same place and the same stack pointer, called from two places. */
static NOINLINE void first_way(void)
{
	recurse(1, "ways");
	__asm__ volatile("");
}

static NOINLINE void second_way(void)
{
	recurse(1, "ways");
	__asm__ volatile("");
}

static void *in_thread(void *argument)
{
	for (int i = 0; i < 20; i++) {
		recurse(i % 7, "thread");
		with_alignment(i * 16, "thread");
	}
	return argument;
}

static ucontext_t main_context, routine_context;

static void in_routine(void)
{
	for (int i = 0; i < 3; i++) {
		recurse(i, "routine");
		swapcontext(&routine_context, &main_context);
	}
}

/* Coroutines: stacks that the C library does not know, which come and go. */
static NOINLINE void in_routines(void)
{
	for (int i = 0; i < 3; i++) {
		void *stack = mmap(
			NULL, 131072, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		REQUIRE(stack != MAP_FAILED && getcontext(&routine_context) == 0);
		routine_context.uc_stack.ss_sp = stack;
		routine_context.uc_stack.ss_size = 131072;
		routine_context.uc_link = &main_context;
		makecontext(&routine_context, in_routine, 0);
		for (int j = 0; j < 4; j++)
			REQUIRE(swapcontext(&main_context, &routine_context) == 0);
		munmap(stack, 131072);
	}
}

int main(void)
{
	pthread_t thread[3];
	void *frame[4];
	int status;
	pid_t child;

	backtrace(frame, 4); /* loads what it needs */
	for (int i = 0; i < 40; i++)
		recurse(i, "plain");
	for (int i = 0; i < 10; i++) {
		with_alloca(16 << i, "alloca");
		with_alignment(16 << i, "aligned");
	}
	for (int i = 0; i < 6; i++) {
		first_way();
		second_way();
	}
	in_handlers();
	in_routines();
	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_create(&thread[i], NULL, in_thread, NULL) == 0);
	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_join(thread[i], NULL) == 0);
	child = fork();
	REQUIRE(child >= 0);
	recurse(3, child == 0 ? "child" : "parent");
	if (child == 0)
		_exit(0);
	REQUIRE(waitpid(child, &status, 0) == child && status == 0);
	return 0;
}
