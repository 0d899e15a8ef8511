/* SPDX-License-Identifier: MIT
 *
 * The whole-heap check, for tests: walks every arena and dies at the first broken invariant.
 */
#ifndef HEAPLEDGER_CHECK_H
#define HEAPLEDGER_CHECK_H

void heap_check(void);

#endif
