/* SPDX-License-Identifier: MIT
 *
 * Text of others (names of files, programs, functions and phases, and whatever a trace holds) for a
 * terminal: what the terminal would obey, or what would change the order of letters, is shown as
 * \x and two digits for each byte. UTF-8 letters stay.
 */
#ifndef HEAPLEDGER_RECORD_ESCAPE_H
#define HEAPLEDGER_RECORD_ESCAPE_H

#include <stddef.h>

#define ESCAPE_MOST 4 /* bytes that one byte can become */

/* Bytes of the letter that `text` of `length` bytes (at least 1) begins with, if it can be shown as
 * it is; else 0. */
size_t escape_plain(const char *text, size_t length);

/* Copies text, ended by NUL and cut to `room` (at least 1); returns its length. */
size_t escape_copy(char *to, size_t room, const char *text, size_t length);

/* One byte, as \x and two digits. */
void escape_byte(char to[ESCAPE_MOST], char byte);

#endif
