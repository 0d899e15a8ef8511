/* SPDX-License-Identifier: MIT
 *
 * See tool.h: messages and sizes, for every command.
 */
#include "tool.h"
#include "escape.h"
#include "suggest.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

int tool_fail(enum tool_exit code, const char *command, const char *format, ...)
{
	char text[4096], line[sizeof(text) * 2];
	int prefix = snprintf(text, sizeof(text), "heapledger: %s: ", command);
	va_list arguments;
	size_t length;

	if (prefix < 0 || (size_t)prefix >= sizeof(text))
		prefix = 0;
	va_start(arguments, format);
	vsnprintf(text + prefix, sizeof(text) - (size_t)prefix, format, arguments);
	va_end(arguments);
	length = escape_copy(line, sizeof(line) - 1, text, strlen(text));
	line[length++] = '\n';
	/* One write, so that lines of several processes do not mix; nothing to do if it fails. */
	if (write(STDERR_FILENO, line, length) < 0)
		return code;
	return code;
}

/* The option that is most like "--word" or "--word=value", if one is close; else NULL. */
static const char *closest(const char *word, const struct option *options)
{
	char name[32];
	unsigned least = UINT_MAX;
	const char *best = NULL;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);
	for (; options->name != NULL; options++) {
		unsigned distance = suggest_distance(name, options->name);

		if (distance < least && suggest_is_close(distance, options->name)) {
			least = distance;
			best = options->name;
		}
	}
	return best;
}

int tool_bad_option(const char *command, int letter, char **argv, const struct option *options)
{
	const char *word = argv[optind - 1];
	bool is_long = strncmp(word, "--", 2) == 0;
	const char *meant = is_long ? closest(word, options) : NULL;

	if (letter == ':')
		return tool_fail(TOOL_USAGE, command, "%s needs a value (see heapledger %s --help)",
			word, command);
	/* A letter among others has not moved optind on. */
	if (optopt != 0 && !(is_long && strchr(word, '=') != NULL))
		return tool_fail(TOOL_USAGE, command,
			"unknown option -%c (see heapledger %s --help)", optopt, command);
	if (meant != NULL)
		return tool_fail(
			TOOL_USAGE, command, "unknown option %s; did you mean --%s?", word, meant);
	return tool_fail(
		TOOL_USAGE, command, "unknown option %s (see heapledger %s --help)", word, command);
}

/* `analyze --json DIR`: the option has had the directory. */
static bool taken_as_value(int argc, char **argv)
{
	struct stat about;

	return argc > 2 && argv[argc - 2][0] == '-' && stat(argv[argc - 1], &about) == 0 &&
	       S_ISDIR(about.st_mode);
}

int tool_one_trace(const char *command, int argc, char **argv)
{
	int given = argc - optind;

	if (given == 1)
		return TOOL_OK;
	if (given == 0 && taken_as_value(argc, argv))
		return tool_fail(TOOL_USAGE, command,
			"%s needs a value, which %s is now; one trace directory is needed, too",
			argv[argc - 2], argv[argc - 1]);
	return tool_fail(TOOL_USAGE, command, "one trace directory is needed, %d given", given);
}

const char *tool_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* "", "B", "K", "KB", "KiB" ... "T", any case: the power of 1024, or -1. */
static int unit_power(const char *unit)
{
	static const char letters[] = "kmgtp";
	const char *letter;

	if (unit[0] == '\0' || strcasecmp(unit, "b") == 0)
		return 0;
	letter = strchr(letters, tolower((unsigned char)unit[0]));
	if (letter == NULL)
		return -1;
	if (unit[1] != '\0' && strcasecmp(unit + 1, "b") != 0 && strcasecmp(unit + 1, "ib") != 0)
		return -1;
	return (int)(letter - letters) + 1;
}

int tool_parse_size(const char *text, uint64_t *bytes)
{
	char *unit;
	double value;
	int power;

	if (!isdigit((unsigned char)text[0]) || text[strspn(text, "0123456789")] == 'x')
		return -EINVAL;
	errno = 0;
	value = strtod(text, &unit);
	while (*unit == ' ')
		unit++;
	power = unit_power(unit);
	if (errno != 0 || power < 0 || !isfinite(value))
		return -EINVAL;
	value = ldexp(value, 10 * power);
	if (value < 0 || value >= 0x1p63)
		return -EINVAL;
	*bytes = (uint64_t)value;
	return 0;
}

int tool_parse_time(const char *text, uint64_t *ns)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = {{"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
	char *unit;
	double value;

	if (!isdigit((unsigned char)text[0]) || text[strspn(text, "0123456789")] == 'x')
		return -EINVAL;
	errno = 0;
	value = strtod(text, &unit);
	if (errno != 0)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(unit, units[i].name) != 0)
			continue;
		value *= units[i].ns;
		if (value < 1 || value >= 0x1p62)
			return -EINVAL;
		*ns = (uint64_t)value;
		return 0;
	}
	return -EINVAL;
}

int tool_parse_interval(const char *command, const char *text, uint64_t *ns)
{
	char *end;
	double ms = strtod(text, &end);

	if (end == text || *end != '\0' || !(ms >= 1 && ms <= 3600000))
		return tool_fail(TOOL_USAGE, command,
			"--interval: milliseconds from 1 to 3600000 are needed, not %s", text);
	*ns = (uint64_t)(ms * 1e6);
	return 0;
}

char *tool_format_size(char *buffer, size_t length, uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buffer, length, "%.*f %s", unit == 0 ? 0 : value < 10 ? 2 : 1, value, units[unit]);
	return buffer;
}

char *tool_format_count(char *buffer, size_t length, uint64_t count)
{
	char *p = buffer + length - 1;

	*p = 0;
	for (unsigned digits = 0; count || !digits; digits++, count /= 10) {
		if (digits && digits % 3 == 0)
			*--p = ',';
		*--p = (char)('0' + count % 10);
	}
	return p;
}

#define SENTENCE_BUFFERS 8

const char *tool_size(uint64_t bytes)
{
	static char buffers[SENTENCE_BUFFERS][32];
	static unsigned next;

	return tool_format_size(buffers[next++ % SENTENCE_BUFFERS], sizeof(buffers[0]), bytes);
}

const char *tool_count(uint64_t count)
{
	static char buffers[SENTENCE_BUFFERS][32];
	static unsigned next;

	return tool_format_count(buffers[next++ % SENTENCE_BUFFERS], sizeof(buffers[0]), count);
}

bool tool_can_erase(void)
{
	const char *term = getenv("TERM");

	return term != NULL && term[0] != '\0' && strcmp(term, "dumb") != 0;
}
