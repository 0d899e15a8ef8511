/* SPDX-License-Identifier: MIT
 *
 * The heap's figures for mallinfo, malloc_stats and malloc_info. Called by preload.c.
 */
#ifndef HEAPLEDGER_STATS_H
#define HEAPLEDGER_STATS_H

#include <malloc.h>
#include <stdio.h>

struct mallinfo2 stats_mallinfo(void);
void stats_print(void);             /* to stderr by write(2) */
void stats_print_xml(FILE *stream); /* takes no lock while it prints */

#endif
