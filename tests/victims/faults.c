/* SPDX-License-Identifier: MIT
 *
 * Each misuse of the heap ends in abort, after a line on stderr that names the fault and the block.
 * A child commits it, the parent reads what it said.
 */
#include "victim.h"

#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char *fault_block;

static void twice_small(void)
{
	free(opaque(fault_block));
	free(opaque(fault_block));
}

/* The cache is full, so the block is in a fast bin. */
static void twice_fast(void)
{
	void *fill[7];

	for (int i = 0; i < 7; i++)
		fill[i] = malloc(40);
	for (int i = 0; i < 7; i++)
		free(fill[i]);
	free(opaque(fault_block));
	free(opaque(fault_block));
}

static void twice_large(void)
{
	fault_block = malloc(5000);
	opaque(malloc(5000));
	free(opaque(fault_block));
	free(opaque(fault_block));
}

static void inside_a_block(void)
{
	fault_block += 8;
	free(opaque(fault_block));
}

static void of_the_stack(void)
{
	char place[256] __attribute__((aligned(16))) = {0};

	fault_block = place + 64;
	free(opaque(fault_block));
}

static void after_an_overflow(void)
{
	fault_block = malloc(5000);
	opaque(malloc(5000));
	memset(opaque(fault_block), 0xff, malloc_usable_size(fault_block) + 8);
	free(opaque(fault_block));
}

static void realloc_after_free(void)
{
	fault_block = malloc(5000);
	opaque(malloc(5000));
	free(opaque(fault_block));
	opaque(realloc(opaque(fault_block), 6000));
}

static void run(const char *name, void (*fault)(void))
{
	const struct rlimit no_core = {0, 0};
	char text[512] = "", address[32];
	int pipes[2], status;
	char *shared = malloc(40);
	pid_t child;

	REQUIRE(pipe(pipes) == 0);
	fault_block = shared;
	child = fork();
	if (child == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		dup2(pipes[1], STDERR_FILENO);
		fault();
		_exit(0);
	}
	close(pipes[1]);
	REQUIRE(waitpid(child, &status, 0) == child);
	REQUIRE(read(pipes[0], text, sizeof(text) - 1) >= 0);
	close(pipes[0]);
	snprintf(address, sizeof(address), "block 0x");
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT ||
		strncmp(text, "heapledger: ", 12) != 0 || strstr(text, address) == NULL ||
		strstr(text, ", called from 0x") == NULL || strchr(text, '\n') == NULL) {
		fprintf(stderr, "%s: status %#x, said '%s'\n", name, (unsigned)status, text);
		exit(1);
	}
	printf("%s: %s", name, text);
	fflush(stdout);
	free(shared);
}

int main(void)
{
	run("twice_small", twice_small);
	run("twice_fast", twice_fast);
	run("twice_large", twice_large);
	run("inside_a_block", inside_a_block);
	run("of_the_stack", of_the_stack);
	run("after_an_overflow", after_an_overflow);
	run("realloc_after_free", realloc_after_free);
	return 0;
}
