/* SPDX-License-Identifier: MIT
 *
 * The whole-heap check: walks every arena and dies at the first broken invariant, which it names as
 * docs/allocator.md does. For the tests, and for users by HEAPLEDGER_CHECK.
 */
#ifndef HEAPLEDGER_CHECK_H
#define HEAPLEDGER_CHECK_H

/* No lock of this thread's may be held; other threads may run. An arena that a pending fork holds
 * is left out. */
void heap_check(void);

#endif
