/* SPDX-License-Identifier: MIT
 *
 * The tables of the summary, which most traces are without: phases, what holds memory by
 * --group-by, and processes. Each prints nothing if it has nothing to say.
 */
#ifndef HEAPLEDGER_SUMMARY_TABLES_H
#define HEAPLEDGER_SUMMARY_TABLES_H

#include "analysis.h"

void summary_groups(const struct analysis *analysis);
void summary_phases(const struct analysis *analysis);
void summary_processes(const struct analysis *analysis);

#endif
