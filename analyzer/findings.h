/* SPDX-License-Identifier: MIT
 *
 * What is worth saying about a heap: ranked sentences with bytes, evidence and a remedy. Made by
 * findings_make from an analysis, printed by summary.c and json.c. Each remedy that names a call or
 * a tunable is one that the tests apply (docs/findings.md).
 */
#ifndef HEAPLEDGER_FINDINGS_H
#define HEAPLEDGER_FINDINGS_H

#include <stddef.h>
#include <stdint.h>

#define FINDINGS_MOST 10
#define FINDING_TEXT_BYTES 512

struct finding {
	const char *kind; /* as in JSON */
	uint64_t bytes;   /* that it is about; what findings are ranked by */
	uint64_t promised; /* bytes that the remedy would return, 0 = none is named */
	char sentence[FINDING_TEXT_BYTES];
	char remedy[FINDING_TEXT_BYTES]; /* empty = none is known */
};

struct findings {
	struct finding list[FINDINGS_MOST];
	size_t count;
	char all_well[FINDING_TEXT_BYTES]; /* when there is none: why */
};

#endif
