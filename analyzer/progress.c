/* SPDX-License-Identifier: MIT
 *
 * See progress.h.
 */
#include "progress.h"
#include "session.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define FIRST_NS UINT64_C(500000000)
#define REFRESH_NS UINT64_C(250000000)

/* As fast as it went so far. */
static uint64_t seconds_left(const struct progress *progress, uint64_t now)
{
	double passed = (double)(now - progress->start_ns) / 1e9;
	double rest = (double)(progress->total - progress->done) / (double)progress->done;
	return (uint64_t)(passed * rest + 0.999);
}

static void draw(struct progress *progress)
{
	uint64_t now = session_monotonic();
	char count[32], line[128];
	if (now < progress->next_ns || progress->done > progress->total)
		return;
	uint64_t left = seconds_left(progress, now);
	int length = snprintf(line, sizeof(line),
		TOOL_ERASE "%u %% of %s records read, %s %" PRIu64 " s left",
		(unsigned)((double)progress->done * 100 / (double)progress->total),
		tool_format_count(count, sizeof(count), progress->total),
		progress->at_most ? "at most about" : "about", left);
	progress->next_ns = now + REFRESH_NS;
	if (length > 0 && (size_t)length < sizeof(line))
		progress->shown =
			write(STDERR_FILENO, line, (size_t)length) > 0 || progress->shown;
}

void progress_open(struct progress *progress, uint64_t total, bool at_most)
{
	*progress = (struct progress){.at_most = at_most};
	if (!tool_can_erase() || !isatty(STDERR_FILENO))
		return;
	progress->draw = draw;
	progress->total = total;
	progress->start_ns = session_monotonic();
	progress->next_ns = progress->start_ns + FIRST_NS;
}

void progress_close(struct progress *progress)
{
	if (progress->shown)
		dprintf(STDERR_FILENO, TOOL_ERASE);
	progress->shown = false;
	progress->draw = NULL;
}
