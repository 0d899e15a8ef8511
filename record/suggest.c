/* SPDX-License-Identifier: MIT
 *
 * See suggest.h.
 */
#include "suggest.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#define LETTERS_MOST 24

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Optimal string alignment: cell [i][j] is for the first i letters of one and j of the other. */
unsigned suggest_distance(const char *word, const char *meant)
{
	unsigned cell[LETTERS_MOST + 1][LETTERS_MOST + 1];
	size_t rows = strlen(word), columns = strlen(meant);
	if (rows > LETTERS_MOST || columns > LETTERS_MOST)
		return LETTERS_MOST;
	for (unsigned i = 0; i <= LETTERS_MOST; i++)
		cell[i][0] = cell[0][i] = i;
	for (size_t i = 1; i <= rows; i++)
		for (size_t j = 1; j <= columns; j++) {
			unsigned wrong = word[i - 1] != meant[j - 1];
			cell[i][j] = least(least(cell[i - 1][j], cell[i][j - 1]) + 1,
				cell[i - 1][j - 1] + wrong);
			if (i > 1 && j > 1 && word[i - 1] == meant[j - 2] &&
				word[i - 2] == meant[j - 1])
				cell[i][j] = least(cell[i][j], cell[i - 2][j - 2] + 1);
		}
	return cell[rows][columns];
}

bool suggest_is_close(unsigned distance, const char *meant)
{
	return distance <= (strlen(meant) + 2) / 3;
}

const char *suggest_of(const char *word, const char *(*nth)(unsigned), unsigned count)
{
	const char *best = NULL;
	unsigned closest = UINT_MAX;
	for (unsigned i = 0; i < count; i++) {
		const char *meant = nth(i);
		unsigned distance = meant ? suggest_distance(word, meant) : UINT_MAX;
		if (distance < closest && suggest_is_close(distance, meant)) {
			closest = distance;
			best = meant;
		}
	}
	return best;
}
