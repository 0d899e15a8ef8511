/* SPDX-License-Identifier: MIT
 *
 * A library that names a phase, for phases_library.c.
 */
#include "heapledger/mark.h"

void module_phase(const char *name);
void module_phase(const char *name)
{
	heapledger_phase(name);
}
