/* SPDX-License-Identifier: MIT
 *
 * Members of JSON objects, as json.c and json_moments.c put them: what is not known is null.
 */
#ifndef HEAPLEDGER_JSON_PUT_H
#define HEAPLEDGER_JSON_PUT_H

#include "analysis.h"

#include <jansson.h>
#include <math.h>

static inline void put(json_t *object, const char *name, json_t *value)
{
	json_object_set_new(object, name, value ? value : json_null());
}

static inline void put_int(json_t *object, const char *name, int64_t value)
{
	put(object, name, json_integer(value));
}

static inline void put_count(json_t *object, const char *name, uint64_t value)
{
	put(object, name, json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value));
}

/* null unless it is known. */
static inline void put_known(json_t *object, const char *name, bool known, int64_t value)
{
	put(object, name, known ? json_integer(value) : NULL);
}

static inline void put_real(json_t *object, const char *name, double value)
{
	put(object, name, isnan(value) ? NULL : json_real(value));
}

/* Who allocated: `caller` as a record has it. */
void json_put_origin(json_t *object, const struct analysis *analysis,
	const struct analysis_stream *entry, uint64_t tick, uint64_t caller);

/* How long what is in `result` waited; the sites are those of `entry`, which may be NULL. */
json_t *json_free_to_return(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct ledger_result *result);
json_t *json_pins(const struct analysis *analysis, const struct analysis_stream *entry);

/* NULL if there is nothing in it. */
json_t *json_percentiles(const struct tally_latency *latency);

/* Sizes and lives of a process's blocks; NULL where its calls are not known. */
json_t *json_sizes(const struct ledger_result *result);
json_t *json_lifetimes(const struct ledger_result *result, bool times);

/* The heap of a stream at its moments; null where its inside is not known. */
json_t *json_moments(const struct analysis *analysis, const struct analysis_stream *entry);

#endif
