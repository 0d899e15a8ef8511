/* SPDX-License-Identifier: MIT
 *
 * For the victims: small programs that run under the preloaded library and exit 0 when its promise
 * holds. A broken promise names itself and its line, and exits 1.
 */
#ifndef HEAPLEDGER_TESTS_VICTIM_H
#define HEAPLEDGER_TESTS_VICTIM_H

#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Keeps the compiler from reasoning about a block. */
static inline void *opaque(void *block)
{
	__asm__ volatile("" : "+r"(block));
	return block;
}

#endif
