/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_bounded.py for recordings that begin late: makes a known heap,
 * says so on standard output, waits for a byte, and takes it down again.
 *
 *     bounded MODE COUNT
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 100000
#define LARGE ((size_t)10 << 20)

static void *block[MOST];
static void *large;
static pthread_barrier_t barrier;

static void *get(size_t size)
{
	void *made;

	if (posix_memalign(&made, 64, size) != 0)
		exit(99);
	return made;
}

/* `count` blocks of 100 bytes, count / 2 of which were resized to 200, and a large one; as many
 * others have come and gone. */
static void build(long count)
{
	for (long i = 0; i < count; i++) {
		void *gone = get(50);

		block[i] = get(100);
		free(gone);
		if (i % 2 != 0) {
			block[i] = realloc(block[i], 200);
			if (block[i] == NULL)
				exit(98);
		}
	}
	large = malloc(LARGE);
	memset(large, 1, LARGE);
	large = realloc(large, 2 * LARGE);
	free(malloc(LARGE));
	if (large == NULL)
		exit(97);
}

static void take_down(long count)
{
	for (long i = 0; i < count; i++)
		free(block[i]);
	free(large);
	for (int i = 0; i < 77; i++)
		free(get(10));
}

static void wait_here(void)
{
	char byte;

	if (write(STDOUT_FILENO, ".", 1) != 1 || read(STDIN_FILENO, &byte, 1) != 1)
		exit(96);
}

/* The child has the heap too, and takes its copy down. */
static int run_fork(long count)
{
	int gate[2];
	char byte;
	pid_t pid;

	build(count);
	if (pipe(gate) != 0)
		return 95;
	pid = fork();
	if (pid == 0) {
		close(gate[1]);
		free(block[0]); /* before the recording begins */
		block[0] = NULL;
		if (read(gate[0], &byte, 1) != 0)
			_exit(94);
		take_down(count);
		_exit(0);
	}
	for (long i = 1; i < count; i += 2) { /* the child still has them */
		free(block[i]);
		block[i] = NULL;
	}
	wait_here();
	close(gate[1]);
	waitpid(pid, NULL, 0);
	take_down(count);
	return 0;
}

static void *build_there(void *count)
{
	build((long)count);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* Another thread, whose arena it is, makes the heap; and lives on. */
static int run_thread(long count)
{
	pthread_t thread;

	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&thread, NULL, build_there, (void *)count);
	pthread_barrier_wait(&barrier);
	wait_here();
	take_down(count);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[1] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;

	if (count < 0 || count > MOST)
		return 93;
	if (strcmp(mode, "fork") == 0)
		return run_fork(count);
	if (strcmp(mode, "thread") == 0)
		return run_thread(count);
	build(count);
	wait_here();
	take_down(count);
	return 0;
}
