/* SPDX-License-Identifier: MIT
 *
 * Reads what the kernel counts of a process: resident memory, page faults, how it ended. Called by
 * the collector; writes nothing.
 */
#ifndef HEAPLEDGER_RECORD_SAMPLE_H
#define HEAPLEDGER_RECORD_SAMPLE_H

#include "heapledger/record.h"
#include "heapledger/trace.h"

#include <stdint.h>
#include <sys/types.h>

/* Fills everything but tick and recorder. -errno when the process has no memory any more. */
int sample_read(struct hl_sample_record *sample, pid_t pid);

/* Adds what smaps_rollup says, which walks all pages of the process: 15 ms a GiB or more. */
int sample_rollup(struct hl_sample_record *sample, pid_t pid);

/* Page faults so far, of both kinds; 0 if they cannot be read. */
uint64_t sample_faults(pid_t pid);

/* The value of a line such as "\nVmSwap:  12 kB" in bytes; 0 if there is none. */
uint64_t sample_kib_line(const char *text, const char *name);

/* How a process that is not our child ended; UNKNOWN and -1 if it cannot be seen. */
enum hl_trace_end sample_end(pid_t pid, int pidfd, int32_t *end_status);

/* From a wait status, as waitpid gives it. */
enum hl_trace_end sample_wait_status(int status, int32_t *end_status);

#endif
