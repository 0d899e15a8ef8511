/* SPDX-License-Identifier: MIT
 *
 * For programs: names the phases of a run in the program's own code. C99 and C++, glibc, nothing to
 * link with.
 *
 *     #include <heapledger/mark.h>
 *     heapledger_phase("load");
 *
 * Everything that follows, in all threads, is of that phase until the next one begins. A name may
 * have 79 bytes, what is beyond is left out. May be called anywhere, in signal handlers and before
 * main. Where nothing is recorded it is one function call that finds nothing to do: no system call,
 * no memory, in a static program too.
 *
 * It asks libc's malloc_info(3) for something that no libc knows and refuses at once (EINVAL);
 * libheapledger.so, which stands before libc in a recorded program, does know it. So there is no
 * symbol to be found at run time, which in a program that is not position-independent, or static,
 * cannot be done without side effects.
 */
#ifndef HEAPLEDGER_MARK_H
#define HEAPLEDGER_MARK_H

#if defined(__linux__)
#include <malloc.h>
#endif

#define HEAPLEDGER_PHASE_OPTION 0x48504c31 /* "HPL1" */

#ifdef __cplusplus
extern "C" {
#endif

static inline void heapledger_phase(const char *name)
{
#if defined(__GLIBC__)
	union {
		const char *name;
		FILE *stream;
	} as;

	as.name = name;
	(void)malloc_info(HEAPLEDGER_PHASE_OPTION, as.stream);
#else
	(void)name;
#endif
}

#ifdef __cplusplus
}
#endif

#endif
