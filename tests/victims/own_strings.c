/* SPDX-License-Identifier: MIT
 *
 * A program that defines functions of <string.h> itself and cannot serve them before its main
 * begins, as one with ThreadSanitizer: the library must not need them until then.
 */
#include "victim.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool ready;

#define EARLY                                                                                      \
	if (!ready)                                                                                \
	abort()

size_t strlen(const char *text)
{
	size_t length = 0;

	EARLY;
	while (text[length] != '\0')
		length++;
	return length;
}

int strncmp(const char *a, const char *b, size_t most)
{
	EARLY;
	for (size_t i = 0; i < most; i++)
		if (a[i] != b[i] || a[i] == '\0')
			return (unsigned char)a[i] - (unsigned char)b[i];
	return 0;
}

int strcmp(const char *a, const char *b)
{
	return strncmp(a, b, (size_t)-1);
}

char *strchr(const char *text, int letter)
{
	EARLY;
	for (; *text != (char)letter; text++)
		if (*text == '\0')
			return NULL;
	return (char *)text;
}

size_t strcspn(const char *text, const char *reject)
{
	size_t length = 0;

	EARLY;
	while (text[length] != '\0' && strchr(reject, text[length]) == NULL)
		length++;
	return length;
}

char *strstr(const char *text, const char *part)
{
	(void)text, (void)part;
	abort();
}

void *memchr(const void *bytes, int letter, size_t count)
{
	EARLY;
	for (size_t i = 0; i < count; i++)
		if (((const unsigned char *)bytes)[i] == (unsigned char)letter)
			return (unsigned char *)bytes + i;
	return NULL;
}

int memcmp(const void *a, const void *b, size_t count)
{
	const unsigned char *left = a, *right = b;

	EARLY;
	for (size_t i = 0; i < count; i++)
		if (left[i] != right[i])
			return left[i] - right[i];
	return 0;
}

int main(void)
{
	ready = true;
	for (size_t i = 0; i < 1000; i++) {
		char *block = realloc(calloc(1, i + 1), 2 * i + 2);

		REQUIRE(block != NULL && block[i] == 0);
		free(block);
	}
	ready = false; /* nor at its end */
	return 0;
}
