/* SPDX-License-Identifier: MIT
 *
 * Whether the program defines malloc itself, so that its calls do not come to this library.
 */
#ifndef HEAPLEDGER_ELSEWHERE_H
#define HEAPLEDGER_ELSEWHERE_H

#include <stdbool.h>

/* Once the library is relocated; makes no system call, and allocates nothing. */
bool elsewhere_is_malloc(void);

#endif
