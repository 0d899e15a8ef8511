/* SPDX-License-Identifier: MIT
 *
 * See escape.h.
 */
#include "escape.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Controls of ISO 6429, ends of lines, and what makes text run the other way. */
static bool is_control(uint32_t letter)
{
	return letter < 0x20 || (letter >= 0x7f && letter < 0xa0) || letter == 0x61c ||
	       letter == 0x200e || letter == 0x200f || (letter >= 0x2028 && letter <= 0x202e) ||
	       (letter >= 0x2066 && letter <= 0x2069);
}

/* Bytes of the UTF-8 letter, 0 if it is none. */
static size_t decode(const unsigned char *text, size_t length, uint32_t *letter)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t bytes = text[0] < 0x80 ? 1 : text[0] < 0xc0 ? 0 : text[0] < 0xe0 ? 2 : 3;

	if (text[0] >= 0xf0)
		bytes = text[0] < 0xf8 ? 4 : 0;
	if (bytes == 0 || bytes > length)
		return 0;
	*letter = bytes == 1 ? text[0] : text[0] & (0x7fu >> bytes);
	for (size_t i = 1; i < bytes; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		*letter = *letter << 6 | (text[i] & 0x3f);
	}
	if (*letter < least[bytes] || *letter > 0x10ffff || (*letter & ~0x7ffu) == 0xd800)
		return 0;
	return bytes;
}

size_t escape_plain(const char *text, size_t length)
{
	uint32_t letter = 0;
	size_t bytes = decode((const unsigned char *)text, length, &letter);

	return bytes != 0 && !is_control(letter) ? bytes : 0;
}

void escape_byte(char to[ESCAPE_MOST], char byte)
{
	static const char digits[] = "0123456789abcdef";

	to[0] = '\\';
	to[1] = 'x';
	to[2] = digits[(unsigned char)byte >> 4];
	to[3] = digits[byte & 15];
}

size_t escape_copy(char *to, size_t room, const char *text, size_t length)
{
	size_t used = 0;

	for (size_t at = 0; at < length;) {
		size_t plain = escape_plain(text + at, length - at);
		size_t bytes = plain != 0 ? plain : ESCAPE_MOST;

		if (used + bytes >= room)
			break;
		if (plain != 0)
			memcpy(to + used, text + at, plain);
		else
			escape_byte(to + used, text[at]);
		used += bytes;
		at += plain != 0 ? plain : 1;
	}
	to[used] = '\0';
	return used;
}
