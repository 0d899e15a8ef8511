/* SPDX-License-Identifier: MIT
 *
 * An event of the kernel's side as a record of the trace format. Used by probe.c.
 */
#ifndef HEAPLEDGER_EVENT_RECORD_H
#define HEAPLEDGER_EVENT_RECORD_H

#include <linux/types.h>

#include "event.h"
#include "heapledger/record.h"

/* docs/trace-format.md, "Kernel streams", says where each word goes. */
void event_record(struct hl_syscall_record *record, const struct event *event);

#endif
