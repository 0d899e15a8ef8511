/* SPDX-License-Identifier: MIT
 *
 * The functions of <string.h> that are needed before a program's own start, under their usual names
 * and seen by this library only. Libc's are not safe that early: a program may define them itself,
 * as one with ThreadSanitizer does, which comes before libc and is not ready when the library is.
 * Linked into both libraries; memcpy and memset, which must be fast, are libc's.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN size_t strlen(const char *text)
{
	const char *at = text;

	while (*at != '\0') {
		at++;
		__asm__ volatile("" : "+r"(at)); /* or a compiler makes the loop a call of strlen */
	}
	return (size_t)(at - text);
}

HIDDEN int strncmp(const char *a, const char *b, size_t most)
{
	for (size_t i = 0; i < most; i++) {
		int difference = (unsigned char)a[i] - (unsigned char)b[i];

		if (difference != 0 || a[i] == '\0')
			return difference;
	}
	return 0;
}

HIDDEN int strcmp(const char *a, const char *b)
{
	return strncmp(a, b, SIZE_MAX);
}

HIDDEN char *strchr(const char *text, int letter)
{
	for (;; text++) {
		if (*text == (char)letter)
			return (char *)(uintptr_t)text;
		if (*text == '\0')
			return NULL;
	}
}

HIDDEN size_t strcspn(const char *text, const char *reject)
{
	size_t length = 0;

	while (text[length] != '\0' && strchr(reject, text[length]) == NULL)
		length++;
	return length;
}

HIDDEN char *strstr(const char *text, const char *part)
{
	size_t length = strlen(part);

	for (; strncmp(text, part, length) != 0; text++)
		if (*text == '\0')
			return NULL;
	return (char *)(uintptr_t)text;
}

HIDDEN void *memchr(const void *bytes, int letter, size_t count)
{
	const unsigned char *at = bytes;

	for (size_t i = 0; i < count; i++)
		if (at[i] == (unsigned char)letter)
			return (void *)(uintptr_t)(at + i);
	return NULL;
}

HIDDEN int memcmp(const void *a, const void *b, size_t count)
{
	const unsigned char *left = a, *right = b;

	for (size_t i = 0; i < count; i++)
		if (left[i] != right[i])
			return left[i] - right[i];
	return 0;
}
