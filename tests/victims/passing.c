/* SPDX-License-Identifier: MIT
 *
 * Has each call of malloc and free before the library, being preloaded earlier or part of the program,
 * and passes it on, as tools that count or delay calls do.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

void *malloc(size_t size)
{
	static void *(*next)(size_t);

	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "malloc");
	return next(size);
}

void free(void *block)
{
	static void (*next)(void *);

	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "free");
	next(block);
}
