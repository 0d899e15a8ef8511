/* SPDX-License-Identifier: MIT
 *
 * Takes the address of malloc, built so that this address is one in the program itself, of its
 * table of calls; the calls go where everybody's do.
 */
#include "victim.h"

#include <stdint.h>
#include <stdlib.h>

extern const char __executable_start[], etext[];
static void *(*volatile allocate)(size_t) = malloc;

int main(void)
{
	const char *at = (const char *)(uintptr_t)malloc;

	REQUIRE(at >= __executable_start && at < etext);
	for (int i = 0; i < 1000; i++)
		free(allocate(100));
	return 0;
}
