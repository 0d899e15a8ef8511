/* SPDX-License-Identifier: MIT
 *
 * Makes a known sequence of memory system calls, in its first thread, in another one and in a
 * child, and then says what it did: the probe has to tell the same. Between two marks (madvise with
 * an advice that does not exist) there is no other call of the kind.
 */
#include "victim.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK_ADVICE 9999
#define PAGE 4096
#define LINES 16

struct account {
	char text[LINES][120];
	int count;
	long tid;
};

static sigjmp_buf no_compat;

static long call(struct account *account, const char *name, long number, long a, long b, long c,
	long d, long e)
{
	long result = syscall(number, a, b, c, d, e, 0);

	if (result == -1)
		result = -errno;
	snprintf(account->text[account->count++], sizeof(account->text[0]), "%s %#lx %ld %ld %ld",
		name, a, b, c, result);
	return result;
}

static void on_fault(int number)
{
	(void)number;
	siglongjmp(no_compat, 1);
}

/* A 32-bit system call: chdir(NULL), whose number is that of brk to a 64-bit program. The probe has
 * to leave it out. */
static void call_compat(void)
{
	struct sigaction action = {.sa_handler = on_fault}, before;

	sigaction(SIGSEGV, &action, &before);
	if (sigsetjmp(no_compat, 1) == 0) {
		long result = 12;

		__asm__ volatile("int $0x80"
				 : "+a"(result)
				 : "b"(0L)
				 : "memory", "r8", "r9", "r10", "r11");
	}
	sigaction(SIGSEGV, &before, NULL);
}

/* Its addresses are in a vector, so what it is about is more than its arguments say. */
static void call_process_madvise(struct account *account, long page)
{
	struct iovec range = {(void *)page, PAGE}; /* NOLINT(performance-no-int-to-ptr) */
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	call(account, "process_madvise", SYS_process_madvise, fd, (long)&range, 1, MADV_COLD, 0);
	close(fd);
}

static void *run(void *argument)
{
	struct account *account = argument;
	long page, moved, end;

	account->tid = syscall(SYS_gettid);
	madvise(NULL, PAGE, MARK_ADVICE);
	page = call(account, "mmap", SYS_mmap, 0, 3 * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1);
	call(account, "mprotect", SYS_mprotect, page, 3 * PAGE, PROT_READ, 0, 0);
	call(account, "madvise", SYS_madvise, page, PAGE, MADV_DONTNEED, 0, 0);
	call_compat();
	call_process_madvise(account, page);
	moved = call(account, "mremap", SYS_mremap, page, 3 * PAGE, 64 * PAGE, MREMAP_MAYMOVE, 0);
	call(account, "munmap", SYS_munmap, moved, 64 * PAGE, 0, 0, 0);
	call(account, "munmap", SYS_munmap, 1, PAGE, 0, 0, 0);
	call(account, "mmap", SYS_mmap, 0, 0, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	end = call(account, "brk", SYS_brk, 0, 0, 0, 0, 0);
	call(account, "brk", SYS_brk, end, 0, 0, 0, 0);
	madvise(NULL, PAGE, MARK_ADVICE);
	return NULL;
}

static void print(const struct account *account)
{
	for (int i = 0; i < account->count; i++)
		printf("%ld %s\n", account->tid, account->text[i]);
	fflush(stdout);
}

int main(void)
{
	static struct account first, second, child;
	pthread_t thread;
	int status;
	pid_t pid;

	run(&first);
	print(&first);
	REQUIRE(pthread_create(&thread, NULL, run, &second) == 0);
	pthread_join(thread, NULL);
	print(&second);
	pid = fork();
	if (pid == 0) {
		run(&child);
		print(&child);
		_exit(0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
	return 0;
}
