/* SPDX-License-Identifier: MIT
 *
 * See window.h: a window in the ticks of one stream. Times are whole nanoseconds, so that what is
 * printed as within the window is within it.
 */
#include "window.h"

#define TICKS_TRIED 64 /* some ticks are one nanosecond */

/* The first tick at that time or later. */
static uint64_t first_at(struct clock *clock, uint64_t ns)
{
	uint64_t tick = clock_tick(clock, clock->origin_ns + ns);
	for (unsigned i = 0; i < TICKS_TRIED && clock_ns(clock, tick) < ns; i++)
		tick++;
	return tick;
}

static uint64_t last_at(struct clock *clock, uint64_t ns)
{
	uint64_t tick = first_at(clock, ns);
	for (unsigned i = 0; i < TICKS_TRIED && clock_ns(clock, tick + 1) <= ns; i++)
		tick++;
	return tick;
}

struct window_span window_span(
	const struct window *window, const struct trace_stream *stream, size_t index)
{
	struct window_span span = {.to_tick = UINT64_MAX, .to_record = UINT64_MAX};
	struct clock clock = stream->clock; /* it notes what it was asked last */
	if (!window->set)
		return span;
	span.by_record = window->phase && window->stream == index;
	span.from_record = window->from_record;
	span.to_record = window->to_record;
	span.from_tick = first_at(&clock, window->from_ns);
	if (!window->to_end)
		span.to_tick = last_at(&clock, window->to_ns);
	return span;
}
