/* SPDX-License-Identifier: MIT
 *
 * See live.h.
 */
#include "live.h"
#include "tool.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#define REFRESH_NS UINT64_C(250000000)
#define RSS_OLD_NS UINT64_C(2000000000) /* not shown any more */
#define COLUMNS 80                      /* of a terminal that does not say */

struct line {
	char text[256];
	size_t length;
	size_t limit;
};

/* Whoever reads a pipe may print what it reads on the terminal. */
static bool goes_elsewhere(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return false;
	return S_ISREG(st.st_mode) || (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
}

static bool is_ours(int terminal)
{
	struct termios mode;

	return tcgetpgrp(terminal) == getpgrp() && tcgetattr(terminal, &mode) == 0 &&
	       (mode.c_lflag & ICANON) != 0 && (mode.c_lflag & ECHO) != 0;
}

static void open_terminal(struct live *live)
{
	live->terminal = open("/dev/tty", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (live->terminal < 0)
		return;
	live->drawn_ns = session_monotonic();
	live->next_ns = live->drawn_ns + REFRESH_NS;
}

void live_open(struct live *live, bool quiet)
{
	*live = (struct live){.terminal = -1, .next_ns = UINT64_MAX};
	if (!quiet && tool_can_erase() && getpgrp() == getpid() && goes_elsewhere(STDOUT_FILENO) &&
		goes_elsewhere(STDERR_FILENO))
		open_terminal(live);
}

void live_open_beside(struct live *live, bool quiet)
{
	*live = (struct live){.terminal = -1, .next_ns = UINT64_MAX};
	if (!quiet && tool_can_erase() && isatty(STDERR_FILENO))
		open_terminal(live);
}

void live_set_resident(struct live *live, uint64_t rss, uint64_t now)
{
	live->rss = rss;
	live->rss_ns = now;
}

/* A cut number would be a wrong one: what does not fit is left out, and all after it. */
__attribute__((format(printf, 2, 3))) static void put(struct line *line, const char *format, ...)
{
	size_t room = line->limit - line->length;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line->text + line->length, room + 1, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length <= room)
		line->length += (size_t)length;
	else
		line->limit = line->length;
}

/* "9999", "12.3 k", "4.56 M". */
static const char *format_count(char buffer[32], uint64_t count)
{
	static const char units[] = "kMGTPE";
	double value = (double)count / 1000;
	size_t unit = 0;

	if (count < 10000) {
		snprintf(buffer, 32, "%" PRIu64, count);
		return buffer;
	}
	for (; value >= 999.5 && units[unit + 1] != '\0'; unit++)
		value /= 1000;
	snprintf(buffer, 32, "%.*f %c",
		value >= 99.95   ? 0
		: value >= 9.995 ? 1
				 : 2,
		value, units[unit]);
	return buffer;
}

/* One column stays free: in the last one, terminals differ in where the cursor goes. */
static size_t width(int terminal)
{
	struct winsize size;
	size_t columns = COLUMNS;

	if (ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		columns = size.ws_col;
	return columns < COLUMNS ? columns - 1 : COLUMNS - 1;
}

/* Returns the events so far. */
static uint64_t fill(
	struct line *line, const struct live *live, const struct processes *all, uint64_t now)
{
	uint64_t events = all->events + all->overwritten;
	uint64_t syscalls = all->syscalls + all->overwritten_syscalls;
	uint32_t running = 0;
	char text[32];

	for (const struct process *p = all->alive; p != NULL; p = p->next) {
		events += p->events;
		syscalls += p->syscalls;
		/* The end of a hidden one cannot be seen, so nor can that it runs. */
		running += !p->gone && !p->hidden && p->replaced == 0;
	}
	put(line, "%s events", format_count(text, events));
	put(line, ", %s/s",
		format_count(text, (uint64_t)((double)(events - live->drawn_events) * 1e9 /
					      (double)(now - live->drawn_ns))));
	if (live->rss != 0 && now - live->rss_ns < RSS_OLD_NS)
		put(line, ", RSS %s", tool_format_size(text, sizeof(text), live->rss));
	put(line, ", %" PRIu32 " process%s", running, running == 1 ? "" : "es");
	put(line, ", %s system call%s", format_count(text, syscalls), syscalls == 1 ? "" : "s");
	return events;
}

void live_draw(struct live *live, const struct processes *all, uint64_t now)
{
	struct line line = {.text = TOOL_ERASE, .length = strlen(TOOL_ERASE)};

	if (!is_ours(live->terminal)) {
		live->shown = false;
		live->next_ns = UINT64_MAX;
		return;
	}
	line.limit = line.length + width(live->terminal);
	live->drawn_events = fill(&line, live, all, now);
	live->drawn_ns = now;
	live->next_ns = now + REFRESH_NS;
	live->shown = write(live->terminal, line.text, line.length) > 0 || live->shown;
}

int live_end(struct live *live)
{
	int terminal = live->terminal;

	live->terminal = -1;
	live->next_ns = UINT64_MAX;
	if (terminal < 0)
		return -1;
	if (!is_ours(terminal)) {
		close(terminal);
		return -1;
	}
	if (live->shown)
		dprintf(terminal, TOOL_ERASE);
	live->shown = false;
	/* What the caller writes is not to be lost. */
	fcntl(terminal, F_SETFL, 0);
	return terminal;
}
