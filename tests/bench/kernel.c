/* SPDX-License-Identifier: MIT
 *
 * `kernel WHAT COUNT`: does one thing that the kernel probe looks at, or passes by, so many times,
 * and prints how many nanoseconds of processor time each took. kernel.py runs it with and without
 * the probe.
 *
 *     munmap   a system call that is followed; it fails at once
 *     getppid  one that is not
 *     fault    a page fault in user mode
 *
 * `kernel run FILE COMMAND...`: writes into FILE the microseconds of processor time that COMMAND and
 * all that it waited for took, in user mode and in the kernel: nothing of the recorder is in them.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 4096

/* Of our own processor time: what others do on the machine is not in it. */
static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void touch_pages(volatile char *memory)
{
	for (size_t page = 0; page < PAGES; page++)
		memory[page * PAGE] = 1;
}

static uint64_t fault(long count)
{
	char *memory = mmap(
		NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t took = 0;

	if (memory == MAP_FAILED || madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE) != 0)
		exit(1);
	for (long done = 0; done < count; done += PAGES) {
		uint64_t start = now_ns();

		touch_pages(memory);
		took += now_ns() - start;
		madvise(memory, PAGES * PAGE, MADV_DONTNEED);
	}
	return took;
}

static uint64_t call(long number, long count)
{
	uint64_t start = now_ns();

	for (long i = 0; i < count; i++)
		syscall(number, 1, PAGE);
	return now_ns() - start;
}

static int run(const char *path, char **command)
{
	struct rusage used;
	int status = 1;
	pid_t child = fork();

	if (child == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, &used) != child || status != 0)
		return 1;
	FILE *file = fopen(path, "w");
	if (file == NULL)
		return 1;
	fprintf(file, "%lld\n",
		((long long)used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 +
			used.ru_utime.tv_usec + used.ru_stime.tv_usec);
	return fclose(file) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc > 3 && strcmp(argv[1], "run") == 0)
		return run(argv[2], argv + 3);

	long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
	uint64_t took;

	if (count <= 0)
		return 2;
	count = (count + PAGES - 1) / PAGES * PAGES;
	if (strcmp(argv[1], "fault") == 0)
		took = fault(count);
	else if (strcmp(argv[1], "munmap") == 0)
		took = call(SYS_munmap, count);
	else if (strcmp(argv[1], "getppid") == 0)
		took = call(SYS_getppid, count);
	else
		return 2;
	printf("%.1f\n", (double)took / (double)count);
	return 0;
}
