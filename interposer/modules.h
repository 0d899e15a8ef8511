/* SPDX-License-Identifier: MIT
 *
 * Which loaded object a place in the code belongs to, and the note of it for whoever reads the
 * trace (heapledger/callstack.h). With stacks it is asked for places that were not seen before: takes
 * no lock that it waits for, makes no system call, never allocates.
 *
 * Without stacks nobody asks while the program runs, and the objects are noted at its start and at
 * its end: what was loaded meanwhile only if nothing was unloaded, for then no address can have
 * meant two things.
 */
#ifndef HEAPLEDGER_MODULES_H
#define HEAPLEDGER_MODULES_H

#include "unwind.h"

#include <stdbool.h>
#include <stdint.h>

/* Changes when an object was found where another one used to be: whatever was remembered of places
 * in the code must be forgotten. */
extern _Atomic uint32_t modules_generation;

/* False if no object is known there. *known is false if the object could not be noted now: then do
 * not remember the place, so that it is asked for again. */
bool modules_find(uintptr_t place, struct unwind_tables *tables, bool *known);

/* How many objects were noted: a record that follows a new one reads the time. */
extern _Atomic uint32_t modules_noted;

/* Without stacks: in the first constructor, and when exit handlers run. */
void modules_started(void);
void modules_ended(void);

/* In a copy of the process, which has one thread. */
void modules_fork_child(void);

#endif
