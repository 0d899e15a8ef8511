/* SPDX-License-Identifier: MIT
 *
 * See prose.h.
 */
#include "prose.h"
#include "escape.h"
#include "tool.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct prose prose = {"", "", "", ""};

void prose_begin(void)
{
	const char *no_color = getenv("NO_COLOR");
	const char *term = getenv("TERM");
	if (!isatty(STDOUT_FILENO) || (no_color && *no_color) || (term && !strcmp(term, "dumb")))
		return;
	prose = (struct prose){"\033[1m", "\033[1;33m", "\033[2m", "\033[0m"};
}

void prose_heading(const char *text)
{
	printf("\n%s%s%s\n", prose.bold, text, prose.plain);
}

void prose_heading_of_main(const struct analysis *analysis, const char *text, const char *which)
{
	if (analysis->count > 1)
		printf("\n%s%s%s  (process %s%s)\n", prose.bold, text, prose.plain,
			analysis->streams[analysis->main].stream->name, which);
	else
		prose_heading(text);
}

const char *prose_size(int64_t bytes)
{
	return tool_size(bytes > 0 ? (uint64_t)bytes : 0);
}

const char *prose_duration(uint64_t ns)
{
	static char buffers[4][32];
	static unsigned next;
	char *buffer = buffers[next++ % 4];
	static const struct {
		uint64_t ns;
		const char *unit;
	} units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
	unsigned i = 0;
	uint64_t seconds = (ns + 500000000) / 1000000000, minutes = (seconds + 30) / 60;
	if (seconds >= 120) {
		bool hours = seconds >= 7200;
		snprintf(buffer, sizeof(buffers[0]), "%" PRIu64 " %s %" PRIu64 " %s",
			hours ? minutes / 60 : seconds / 60, hours ? "h" : "min",
			hours ? minutes % 60 : seconds % 60, hours ? "min" : "s");
		return buffer;
	}
	while (i < 3 && ns < units[i].ns)
		i++;
	double value = (double)ns / (double)units[i].ns;
	snprintf(buffer, sizeof(buffers[0]), i == 3 || value >= 100 ? "%.0f %s" : "%.2f %s", value,
		units[i].unit);
	return buffer;
}

void prose_broken(const char *sentence, size_t more)
{
	char escaped[2048];
	const char *text = escaped;
	size_t indent = 2;
	escape_copy(escaped, sizeof(escaped), sentence, strlen(sentence));
	while (*text) {
		size_t length = strlen(text), room = PROSE_COLUMNS - indent;
		if (length > room) {
			length = room;
			while (length && text[length] != ' ')
				length--;
			if (!length)
				length = room;
		}
		printf("%*s%.*s\n", (int)indent, "", (int)length, text);
		text += length;
		while (*text == ' ')
			text++;
		indent = 2 + more;
	}
}

static void say(const char *format, va_list arguments)
{
	char text[1024];
	vsnprintf(text, sizeof(text), format, arguments);
	prose_broken(text, 0);
}

void prose_say(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	say(format, arguments);
	va_end(arguments);
}

void prose_warn(const char *format, ...)
{
	va_list arguments;
	fputs(prose.warn, stdout);
	va_start(arguments, format);
	say(format, arguments);
	va_end(arguments);
	fputs(prose.plain, stdout);
}

void prose_cell(const char *name, int width)
{
	int used = 0;
	for (; *name && used < width; name++, used++) {
		unsigned char c = (unsigned char)*name;
		putchar(c < ' ' || c >= 0x7f ? '?' : c);
	}
	printf("%*s", width - used, "");
}
