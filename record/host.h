/* SPDX-License-Identifier: MIT
 *
 * The machine that a recording is made on, for session.json: what figures may depend on, and nothing
 * that names it. Called by manifest.c.
 */
#ifndef HEAPLEDGER_RECORD_HOST_H
#define HEAPLEDGER_RECORD_HOST_H

#include <jansson.h>

/* docs/trace-format.md; what is not known is null. */
json_t *host_object(void);

#endif
