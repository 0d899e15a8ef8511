/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_record.py and test_nothing_lost.py: makes a known number of
 * calls to posix_memalign, which nothing else in it uses, among others, in all the ways in which a
 * process can begin and end.
 *
 *     record_calls [gated] [busy] MODE COUNT [MORE]
 *
 * gated: nothing happens until standard input has a byte. busy: three more threads make calls all
 * the while, until the process ends.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_THREADS 64

extern char **environ;

static _Atomic long interrupts;

/* All kinds of calls, and blocks of all kinds: from caches, bins, the top, and mapped. */
static void call_others(long i)
{
	char *block = malloc((size_t)(i % 3000)), *mapped = NULL;

	if (i % 1024 == 0)
		mapped = calloc(3, (size_t)(i % 5 + 1) * 50000);
	block = realloc(block, (size_t)(i % 7000) + 1);
	free(aligned_alloc(32, (size_t)(i % 20 + 1) * 32));
	free(memalign(256, (size_t)(i % 200)));
	free(calloc(2, (size_t)(i % 100)));
	free(mapped);
	free(block);
	free(NULL);
}

static void call_once(long i)
{
	void *block;

	if (posix_memalign(&block, 64, (size_t)(i % 1000) + 1) != 0)
		exit(99);
	memset(block, 1, 1);
	free(block);
	if (i % 8 == 0)
		call_others(i);
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

static void outlive(pid_t parent)
{
	while (getppid() == parent)
		usleep(1000);
}

/* Twice: away from the terminal, and from being a leader of its session. Each outlives its parent.
 */
static int run_daemon(long count)
{
	pid_t parent = getpid();

	calls(count);
	if (fork() != 0)
		return 0;
	outlive(parent);
	setsid();
	calls(count);
	parent = getpid();
	if (fork() != 0)
		_exit(0);
	outlive(parent);
	close(0);
	close(1);
	close(2);
	calls(count);
	return 0;
}

static int run_system(const char *self, const char *count)
{
	char command[4200];

	calls(atol(count));
	snprintf(command, sizeof(command), "%s count %s", self, count);
	return system(command) == 0 ? 0 : 90;
}

static void on_alarm(int number)
{
	(void)number;
	call_once(1); /* soon done: the next signal is not far */
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

static void *forever(void *unused)
{
	for (long i = 0;; i++)
		call_once(i);
	return unused;
}

static void start_forever(int threads)
{
	pthread_t thread;

	for (int i = 0; i < threads; i++)
		if (pthread_create(&thread, NULL, forever, NULL) != 0)
			exit(89);
}

/* A process and its children, until all of them are killed. */
static int run_family(int children)
{
	for (int i = 0; i < children; i++)
		if (fork() == 0)
			break;
	forever(NULL);
	return 0;
}

/* Threads come and go while three others work. */
static int run_ending(long count, int threads)
{
	pthread_t worker[3];

	for (int i = 0; i < 3; i++)
		pthread_create(&worker[i], NULL, thread_calls, (void *)(count * 100));
	run_short_threads(count, threads);
	for (int i = 0; i < 3; i++)
		pthread_join(worker[i], NULL);
	return 0;
}

/* Any system call but the heap's own and those of a wait for the recorder is the end. */
static int run_sealed(long count)
{
	static const int allowed[] = {SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise,
		SYS_mprotect, SYS_nanosleep, SYS_clock_gettime, SYS_openat, SYS_read, SYS_close,
		SYS_exit_group};
	enum { ALLOWED = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter filter[2 * ALLOWED + 2];
	struct sock_fprog program = {.len = 2 * ALLOWED + 2, .filter = filter};
	unsigned at = 0;

	filter[at++] = (struct sock_filter)BPF_STMT(
		BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < ALLOWED; i++) {
		filter[at++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], 0, 1);
		filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	call_once(0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		return 87;
	calls(count);
	_exit(0);
}

static void read_gate(void)
{
	char gate;

	if (read(STDIN_FILENO, &gate, 1) != 1)
		exit(88);
}

int main(int argc, char **argv)
{
	const char *self = argv[0];

	for (; argc > 1; argc--, argv++) {
		if (strcmp(argv[1], "gated") == 0)
			read_gate();
		else if (strcmp(argv[1], "busy") == 0)
			start_forever(3);
		else
			break;
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
		return run_exec(self, argv[2]);
	if (strcmp(mode, "spawn") == 0)
		return run_spawn(self, argv[2]);
	if (strcmp(mode, "vfork") == 0)
		return run_vfork(count);
	if (strcmp(mode, "daemon") == 0)
		return run_daemon(count);
	if (strcmp(mode, "interrupt") == 0)
		return run_interrupt(count);
	if (strcmp(mode, "system") == 0)
		return run_system(self, argv[2]);
	if (strcmp(mode, "ending") == 0)
		return run_ending(count, more);
	if (strcmp(mode, "sealed") == 0)
		return run_sealed(count);
	if (strcmp(mode, "family") == 0)
		return run_family((int)count);
	if (strcmp(mode, "forever") == 0) {
		start_forever((int)count - 1);
		forever(NULL);
	}
	calls(count);
	if (strcmp(mode, "_exit") == 0)
		_exit(5);
	if (strcmp(mode, "abort") == 0)
		abort();
	return strcmp(mode, "count") == 0 ? 0 : 2;
}
