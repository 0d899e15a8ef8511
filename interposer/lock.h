/* SPDX-License-Identifier: MIT
 *
 * A small futex lock for the heap. Statically initialised by zero, no system call without
 * contention, keeps errno. Every holder leaves soon: nothing waits inside a lock. The exception is
 * fork, which holds all of them across the kernel's copy; while it does, a wait is bounded and may
 * fail, and the caller must then do without (arena.h tells why).
 */
#ifndef HEAPLEDGER_LOCK_H
#define HEAPLEDGER_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/single_threaded.h>

#define LOCK_FORK_WAIT_NS 10000000

struct lock {
	_Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody may sleep */
};

/* Forks that hold or wait for the locks: several threads may fork at a time. */
extern _Atomic unsigned lock_forks_pending;

bool lock_take_slow(struct lock *lock);
void lock_wake(struct lock *lock);

static inline bool lock_try(struct lock *lock)
{
	uint32_t seen = 0;

	/* One thread needs no locked instruction. The word is kept all the same: a signal handler
	 * may start a thread meanwhile. */
	if (__libc_single_threaded) {
		if (atomic_load_explicit(&lock->word, memory_order_relaxed) != 0)
			return false;
		atomic_store_explicit(&lock->word, 1, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
		return true;
	}
	return atomic_compare_exchange_strong_explicit(
		&lock->word, &seen, 1, memory_order_acquire, memory_order_relaxed);
}

/* For somebody who can do without: a few microseconds at most. */
bool lock_spin(struct lock *lock);

/* False only while a fork is pending and the lock stayed taken for LOCK_FORK_WAIT_NS. */
static inline bool lock_take(struct lock *lock)
{
	return lock_try(lock) || lock_take_slow(lock);
}

/* For the fork itself: waits until the lock is had. */
void lock_take_always(struct lock *lock);

static inline void lock_drop(struct lock *lock)
{
	if (__libc_single_threaded) {
		atomic_store_explicit(&lock->word, 0, memory_order_release);
		return;
	}
	if (atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2)
		lock_wake(lock);
}

/* In a fork's child, where no other thread exists. */
static inline void lock_reset(struct lock *lock)
{
	atomic_store_explicit(&lock->word, 0, memory_order_relaxed);
}

#endif
