/* SPDX-License-Identifier: MIT
 *
 * The control of the differential test: libc's allocator with one promise broken, named by the
 * variable BROKEN_PROMISE and only now and then. A test that compares allocators must find each.
 */
#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define EVERY 20 /* calls */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

/* True once in EVERY calls that could break this promise, if it is the one to break. */
static bool breaks(const char *promise)
{
	static __thread unsigned calls __attribute__((tls_model("initial-exec")));
	const char *wanted = getenv("BROKEN_PROMISE");

	return wanted != NULL && strcmp(wanted, promise) == 0 && ++calls % EVERY == 0;
}

EXPORT void *malloc(size_t size)
{
	void *block;

	if (size == 0 && breaks("nothing is a block"))
		return NULL;
	block = __libc_malloc(size);
	if (block == NULL && breaks("error"))
		errno = EAGAIN;
	return block;
}

EXPORT void *calloc(size_t count, size_t size)
{
	unsigned char *block;

	if (size > SIZE_MAX / 2 && count > 1 && breaks("overflow"))
		return __libc_calloc(1, 16);
	block = __libc_calloc(count, size);
	if (block != NULL && count * size > 100 && breaks("zero"))
		block[count * size - 1] = 1;
	return block;
}

EXPORT void *realloc(void *old, size_t size)
{
	unsigned char *block = __libc_realloc(old, size);

	if (block != NULL && old != NULL && breaks("contents"))
		block[0] ^= 1;
	return block;
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	if (alignment > 16 && alignment < 4096 && breaks("alignment"))
		return __libc_memalign(16, size);
	return __libc_memalign(alignment, size);
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size)
{
	void *block;

	if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0)
		return breaks("code") ? ENOMEM : EINVAL;
	block = __libc_memalign(alignment, size);
	if (block == NULL)
		return ENOMEM;
	*result = block;
	return 0;
}

EXPORT void free(void *block)
{
	int saved = errno;

	__libc_free(block);
	errno = breaks("errno of free") ? ENOMEM : saved;
}
