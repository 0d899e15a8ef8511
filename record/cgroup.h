/* SPDX-License-Identifier: MIT
 *
 * How much memory the control groups of this process allow. The recording's buffers count as the
 * program's there: what is too much for a container would end the program. Called by cmd_record.c.
 */
#ifndef HEAPLEDGER_RECORD_CGROUP_H
#define HEAPLEDGER_RECORD_CGROUP_H

#include <stdint.h>

/* Bytes, the least of all groups that it is in; UINT64_MAX if there is no limit or none is known.
 * Knows both versions, where they are mounted below /sys/fs/cgroup. */
uint64_t cgroup_memory_limit(void);

#endif
