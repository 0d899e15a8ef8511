/* SPDX-License-Identifier: MIT
 *
 * The sleeping half of lock.h. Makes futex system calls only, keeps errno.
 */
#include "lock.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOCK_SPINS 100

_Atomic unsigned lock_forks_pending;

static int futex_wait(struct lock *lock, long wait_ns)
{
	struct timespec limit = {.tv_sec = 0, .tv_nsec = wait_ns};
	int saved = errno;
	int result = 0;

	if (syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, 2, &limit, NULL, 0) != 0)
		result = errno;
	errno = saved;
	return result;
}

__attribute__((noinline)) void lock_wake(struct lock *lock)
{
	int saved = errno;

	syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	errno = saved;
}

bool lock_spin(struct lock *lock)
{
	for (int i = 0; i < LOCK_SPINS; i++) {
		if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 && lock_try(lock))
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

static bool lock_try_contended(struct lock *lock)
{
	return atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) == 0;
}

__attribute__((noinline)) bool lock_take_slow(struct lock *lock)
{
	if (lock_spin(lock))
		return true;
	while (!lock_try_contended(lock)) {
		int error = futex_wait(lock, LOCK_FORK_WAIT_NS);

		if (error == ETIMEDOUT && atomic_load(&lock_forks_pending) != 0)
			return lock_try_contended(lock);
	}
	return true;
}

void lock_take_always(struct lock *lock)
{
	if (lock_try(lock))
		return;
	while (!lock_try_contended(lock))
		futex_wait(lock, LOCK_FORK_WAIT_NS);
}
