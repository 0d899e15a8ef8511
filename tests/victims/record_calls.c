/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_record.py: makes a known number of calls to posix_memalign,
 * which nothing else in it uses, in all the ways in which a process can begin and end.
 *
 *     record_calls MODE COUNT [MORE]
 */
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_THREADS 64

extern char **environ;

static _Atomic long *made; /* calls that have returned, one counter a thread */
static _Atomic long interrupts;

static void call_once(long i)
{
	void *block;

	if (posix_memalign(&block, 64, (size_t)(i % 1000) + 1) != 0)
		exit(99);
	memset(block, 1, 1);
	free(block);
}

static void calls(long count)
{
	for (long i = 0; i < count; i++)
		call_once(i);
}

static int wait_for(pid_t pid)
{
	int status = -1;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		exit(98);
	return status;
}

static void *thread_calls(void *count)
{
	calls((long)count);
	return NULL;
}

static int run_threads(long count, int threads)
{
	pthread_t thread[MOST_THREADS];

	for (int i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, thread_calls, (void *)count);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

/* One thread after another: their ids and pages are used again. */
static int run_short_threads(long count, int threads)
{
	pthread_t thread;

	for (int i = 0; i < threads; i++) {
		pthread_create(&thread, NULL, thread_calls, (void *)count);
		pthread_join(thread, NULL);
	}
	return 0;
}

static int run_fork(long count, pid_t (*fork_it)(void))
{
	pid_t pid;

	calls(count);
	pid = fork_it();
	if (pid == 0) {
		calls(count);
		exit(0);
	}
	calls(count);
	return wait_for(pid) == 0 ? 0 : 97;
}

/* Children that are all alive at the same time. */
static int run_children(long count, int children)
{
	pid_t *pids = calloc((size_t)children, sizeof(pid_t));
	int gate[2], failed = 0;
	char byte;

	if (pids == NULL || pipe(gate) != 0)
		return 96;
	for (int i = 0; i < children; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			close(gate[1]);
			calls(count);
			if (read(gate[0], &byte, 1) < 0)
				_exit(1);
			calls(count);
			_exit(0);
		}
	}
	close(gate[1]);
	for (int i = 0; i < children; i++)
		failed += wait_for(pids[i]) != 0;
	free(pids);
	return failed != 0 ? 95 : 0;
}

static int run_exec(const char *self, char *count)
{
	char *const argv[] = {(char *)self, (char[]){"count"}, count, NULL};

	calls(atol(count));
	execv("/proc/self/exe", argv);
	return 94;
}

static int run_spawn(const char *self, char *count)
{
	char *const argv[] = {(char *)self, (char[]){"count"}, count, NULL};
	pid_t pid;

	calls(atol(count));
	if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) != 0)
		return 93;
	return wait_for(pid) == 0 ? 0 : 92;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static int run_vfork(long count)
{
	pid_t pid = vfork();

	if (pid == 0) {
		calls(count);
		_exit(0);
	}
	calls(count);
	return wait_for(pid) == 0 ? 0 : 91;
}
#pragma GCC diagnostic pop

/* A child that outlives its parent by a moment. */
static int run_daemon(long count)
{
	if (fork() != 0)
		return 0;
	setsid();
	usleep(300000);
	calls(count);
	return 0;
}

static void on_alarm(int number)
{
	(void)number;
	calls(1);
	atomic_fetch_add(&interrupts, 1);
}

/* A signal handler that allocates, also in the middle of calls. Prints how many calls there were.
 */
static int run_interrupt(long count)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	calls(count);
	setitimer(ITIMER_REAL, &never, NULL);
	printf("%ld\n", count + atomic_load(&interrupts));
	return 0;
}

static void *forever(void *counter)
{
	_Atomic long *mine = counter;

	for (long i = 0;; i++) {
		call_once(i);
		atomic_store(mine, i + 1);
	}
	return NULL;
}

/* Until it is killed; FILE holds one counter of completed calls a thread. */
static int run_forever(int threads, const char *file)
{
	pthread_t thread;
	int fd = open(file, O_RDWR | O_CREAT, 0600);

	if (fd < 0 || ftruncate(fd, MOST_THREADS * sizeof(long)) != 0)
		return 90;
	made = mmap(NULL, MOST_THREADS * sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (made == MAP_FAILED)
		return 89;
	for (int i = 1; i < threads; i++)
		pthread_create(&thread, NULL, forever, (void *)&made[i]);
	forever((void *)&made[0]);
	return 0;
}

int main(int argc, char **argv)
{
	char gate;

	/* "gated" before the mode: nothing happens until standard input has a byte. */
	if (argc > 1 && strcmp(argv[1], "gated") == 0) {
		if (read(STDIN_FILENO, &gate, 1) != 1)
			return 88;
		argv[1] = argv[0];
		argv++;
		argc--;
	}

	const char *mode = argc > 2 ? argv[1] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;
	int more = argc > 3 ? atoi(argv[3]) : 1;

	if (strcmp(mode, "threads") == 0)
		return run_threads(count, more < MOST_THREADS ? more : MOST_THREADS);
	if (strcmp(mode, "short-threads") == 0)
		return run_short_threads(count, more);
	if (strcmp(mode, "fork") == 0)
		return run_fork(count, fork);
	if (strcmp(mode, "_Fork") == 0)
		return run_fork(count, _Fork);
	if (strcmp(mode, "children") == 0)
		return run_children(count, more);
	if (strcmp(mode, "exec") == 0)
		return run_exec(argv[0], argv[2]);
	if (strcmp(mode, "spawn") == 0)
		return run_spawn(argv[0], argv[2]);
	if (strcmp(mode, "vfork") == 0)
		return run_vfork(count);
	if (strcmp(mode, "daemon") == 0)
		return run_daemon(count);
	if (strcmp(mode, "interrupt") == 0)
		return run_interrupt(count);
	if (strcmp(mode, "forever") == 0 && argc > 3)
		return run_forever((int)count, argv[3]);
	calls(count);
	if (strcmp(mode, "_exit") == 0)
		_exit(5);
	if (strcmp(mode, "abort") == 0)
		abort();
	return strcmp(mode, "count") == 0 ? 0 : 2;
}
