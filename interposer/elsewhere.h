/* SPDX-License-Identifier: MIT
 *
 * Whether the program defines malloc itself, so that its calls do not come to this library.
 */
#ifndef HEAPLEDGER_ELSEWHERE_H
#define HEAPLEDGER_ELSEWHERE_H

#include <stdbool.h>

/* Calls nothing; true once the library is relocated. */
bool elsewhere_is_malloc(void);

#endif
