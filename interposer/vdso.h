/* SPDX-License-Identifier: MIT
 *
 * The kernel's own clock function in every process, found without libc: libc's clock_gettime may be
 * another library's, and is not ready at the dynamic linker's first allocation. Called by attach.c.
 */
#ifndef HEAPLEDGER_VDSO_H
#define HEAPLEDGER_VDSO_H

#include <time.h>

typedef int (*vdso_clock)(clockid_t clock, struct timespec *time);

/* `envp`: the environment on the initial stack, behind which the kernel put what it has to tell.
 * NULL if there is no such function: then only a system call can say what time it is. */
vdso_clock vdso_find_clock(char **envp);

#endif
