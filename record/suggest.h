/* SPDX-License-Identifier: MIT
 *
 * Which of some words was meant by one that is none of them. Used by main.c for commands, by tool.c
 * for options, and for values of some options.
 */
#ifndef HEAPLEDGER_SUGGEST_H
#define HEAPLEDGER_SUGGEST_H

#include <stdbool.h>

/* Letters to insert, remove, replace or swap with their neighbour until `word` is `meant`; words of
 * 24 letters at most, of longer ones it is 24. */
unsigned suggest_distance(const char *word, const char *meant);

/* Close enough to be a slip: at most a third of the letters are wrong. */
bool suggest_is_close(unsigned distance, const char *meant);

/* The first of the closest of `count` words, of which some may be NULL; NULL: none is close. */
const char *suggest_of(const char *word, const char *(*nth)(unsigned), unsigned count);

#endif
