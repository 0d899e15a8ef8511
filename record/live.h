/* SPDX-License-Identifier: MIT
 *
 * The line that tells how a recording goes while it runs. Called by the collector's rounds and, at
 * the end, by cmd_record.c. It must not touch what the program prints, so it is drawn on the
 * controlling terminal only while nobody else has a reason to write there:
 *
 * - standard output and error, which the program has from us, are files or /dev/null;
 * - we are the job that a shell runs at the terminal, not a part of a script or of somebody else's
 *   program, which may print there;
 * - the terminal is in its plain mode: nobody draws a screen on it or asks for a password.
 *
 * Once that is over it stays over, as nobody knows then where the cursor is. A slow or stopped
 * terminal loses lines, it does not hold up the collector. Allocates nothing.
 */
#ifndef HEAPLEDGER_RECORD_LIVE_H
#define HEAPLEDGER_RECORD_LIVE_H

#include "processes.h"

#include <stdbool.h>
#include <stdint.h>

struct live {
	int terminal;      /* -1: none that is ours */
	bool shown;        /* the cursor is behind our line */
	uint64_t next_ns;  /* UINT64_MAX: no line, or no more */
	uint64_t drawn_ns; /* the rate is what came since */
	uint64_t drawn_events;
	uint64_t rss; /* of all sampled processes; 0: none was */
	uint64_t rss_ns;
};

/* After the program was started. Without a terminal of ours, and if quiet, the rest does nothing.
 */
void live_open(struct live *live, bool quiet);

/* For a program that was not started by us and has its own output: the terminal is ours if it is
 * that of standard error and we are in its foreground. */
void live_open_beside(struct live *live, bool quiet);

/* What a round of samples found resident. */
void live_set_resident(struct live *live, uint64_t rss, uint64_t now);

void live_draw(struct live *live, const struct processes *all, uint64_t now);

static inline void live_round(struct live *live, const struct processes *all, uint64_t now)
{
	if (now >= live->next_ns)
		live_draw(live, all, now);
}

/* Erases the line. Returns the terminal, for the caller to write to and to close, or -1. */
int live_end(struct live *live);

#endif
