/* SPDX-License-Identifier: MIT
 *
 * See heapledger/settings.h. Pure functions over text.
 */
#include "heapledger/settings.h"
#include "heapledger/session.h"

#include <limits.h>
#include <string.h>

#define GLIBC_VARIABLE "GLIBC_TUNABLES"
#define GLIBC_PREFIX "glibc.malloc."

static const char unknown[] = "there is no such tunable";
static const char no_value[] = "a value is missing";
static const char no_number[] = "not a number";
static const char out_of_range[] = "out of range";

static const struct {
	const char *name;
	uint64_t initial, least, most;
	const char *variable; /* NULL: none; empty: not glibc's at all */
} names[SETTINGS_COUNT] = {
#define HL_SETTING(name, initial, least, most, variable) {#name, initial, least, most, variable},
#include "heapledger/settings.def"
};

static const char *const policies[] = {
#define HL_POLICY(number, name) [number] = #name,
#include "heapledger/settings.def"
};

#define POLICY_COUNT (sizeof(policies) / sizeof(policies[0]))

struct source {
	struct settings *settings;
	settings_report *report;
	void *context;
};

static void complain(const struct source *source, const char *variable, const char *item,
	size_t bytes, const char *why)
{
	struct settings_fault fault = {variable, item, bytes, why};

	if (source->report != NULL && why != NULL)
		source->report(source->context, &fault);
}

static bool is_word(const char *text, size_t bytes, const char *word)
{
	return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

static bool is_glibc(unsigned name)
{
	return names[name].variable == NULL || names[name].variable[0] != '\0';
}

static unsigned find(const char *name, size_t bytes)
{
	unsigned i = 0;

	while (i < SETTINGS_COUNT && !is_word(name, bytes, names[i].name))
		i++;
	return i;
}

static unsigned digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	if (c >= 'A' && c <= 'F')
		return (unsigned)(c - 'A') + 10;
	return UINT_MAX;
}

/* K, M or G behind the number: how far it is shifted; 0 if there is none. */
static unsigned unit_shift(char c)
{
	const char *units = "kmg", *at = strchr(units, c | ('a' - 'A'));

	return c != '\0' && at != NULL ? (unsigned)(at - units + 1) * 10 : 0;
}

static const char *parse_digits(const char *text, const char *end, uint64_t *value)
{
	uint64_t base = 10;

	if (end - text > 2 && text[0] == '0' && (text[1] | 32) == 'x') {
		base = 16;
		text += 2;
	} else if (end - text > 1 && text[0] == '0') {
		base = 8;
	}
	if (text == end)
		return no_number;
	for (*value = 0; text < end; text++) {
		uint64_t digit = digit_of(*text);

		if (digit >= base)
			return no_number;
		if (__builtin_mul_overflow(*value, base, value) ||
			__builtin_add_overflow(*value, digit, value))
			return out_of_range;
	}
	return NULL;
}

/* Decimal, 0x hexadecimal or 0 octal, as glibc reads it, where -1 is the largest number of all;
 * `units`: also 64K, 4M, 1G. Nothing else may stand there. */
static const char *parse_number(const char *text, size_t bytes, bool units, uint64_t *value)
{
	const char *end = text + bytes;
	unsigned shift = bytes > 1 && units ? unit_shift(end[-1]) : 0;
	bool negative = bytes > 1 && text[0] == '-';
	const char *why;

	if (bytes == 0)
		return no_value;
	why = parse_digits(text + negative, end - (shift != 0), value);
	if (why != NULL)
		return why;
	if (*value > UINT64_MAX >> shift)
		return out_of_range;
	*value <<= shift;
	if (negative)
		*value = -*value;
	return NULL;
}

static const char *parse_value(
	unsigned name, const char *text, size_t bytes, bool units, uint64_t *value)
{
	const char *why;

	if (name == SETTINGS_purge && is_word(text, bytes, "never")) {
		*value = SETTINGS_PURGE_NEVER;
		return NULL;
	}
	if (name == SETTINGS_purge && is_word(text, bytes, "trim")) {
		*value = SETTINGS_PURGE_TRIM;
		return NULL;
	}
	why = parse_number(text, bytes, units, value);
	if (why == no_number && name == SETTINGS_purge)
		return "never, trim or a number of milliseconds is needed";
	if (why != NULL || (*value >= names[name].least && *value <= names[name].most))
		return why;
	return name == SETTINGS_hugetlb ? "only 0 and 1 are supported" : out_of_range;
}

static const char *assign(
	struct settings *settings, unsigned name, const char *text, size_t bytes, bool units)
{
	uint64_t value = 0;
	const char *why = parse_value(name, text, bytes, units, &value);

	if (why != NULL)
		return why;
	settings->value[name] = value;
	settings->given |= UINT32_C(1) << name;
	return NULL;
}

/* NAME=VALUE, of glibc's names only or of all. */
static const char *assign_item(
	struct settings *settings, const char *item, size_t bytes, bool of_glibc)
{
	const char *equal = memchr(item, '=', bytes);
	size_t length = equal != NULL ? (size_t)(equal - item) : bytes;
	unsigned name = find(item, length);

	if (of_glibc && is_word(item, length, "check"))
		return NULL; /* glibc's, and without effect since 2.34 */
	if (name == SETTINGS_COUNT || (of_glibc && !is_glibc(name)))
		return unknown;
	if (equal == NULL)
		return no_value;
	return assign(settings, name, equal + 1, bytes - length - 1, !of_glibc);
}

const char *settings_set(struct settings *settings, const char *item, size_t bytes)
{
	return memchr(item, ':', bytes) == NULL ? assign_item(settings, item, bytes, false)
						: "a colon cannot be in it";
}

/* Other namespaces of glibc's than malloc are not for us to judge. */
static void read_item(
	const struct source *source, const char *variable, const char *item, size_t bytes)
{
	const size_t prefix = sizeof(GLIBC_PREFIX) - 1;
	bool of_glibc = strcmp(variable, GLIBC_VARIABLE) == 0;
	const char *why = NULL;

	if (!of_glibc && bytes > 0)
		why = assign_item(source->settings, item, bytes, false);
	else if (bytes >= prefix && memcmp(item, GLIBC_PREFIX, prefix) == 0)
		why = assign_item(source->settings, item + prefix, bytes - prefix, true);
	complain(source, variable, item, bytes, why);
}

/* item:item ... */
static void read_list(const struct source *source, const char *variable, const char *list)
{
	for (size_t bytes; *list != '\0'; list += bytes + (list[bytes] == ':')) {
		bytes = strcspn(list, ":");
		read_item(source, variable, list, bytes);
	}
}

/* Whether `entry`, VARIABLE=VALUE, is what `name` is but for an underscore at the end. */
static bool is_misspelt(const char *entry, size_t bytes, const char *name)
{
	size_t length = strlen(name);

	return length == bytes + 1 && name[bytes] == '_' && memcmp(entry, name, bytes) == 0;
}

/* Variables of glibc's malloc end with an underscore, but for those of its arenas; others that
 * start with MALLOC_ belong to somebody else. */
static const char *read_malloc_variable(struct settings *settings, const char *entry)
{
	size_t bytes = strcspn(entry, "=");
	const char *value = entry + bytes + (entry[bytes] == '=');

	for (unsigned i = 0; i < SETTINGS_COUNT; i++) {
		if (names[i].variable == NULL || names[i].variable[0] == '\0')
			continue;
		if (is_word(entry, bytes, names[i].variable))
			return assign(settings, i, value, strlen(value), false);
		if (is_misspelt(entry, bytes, names[i].variable))
			return unknown;
	}
	if (is_word(entry, bytes, "MALLOC_CHECK_"))
		return NULL;
	return bytes > 0 && entry[bytes - 1] == '_' ? unknown : NULL;
}

static void read_malloc_variables(const struct source *source, char *const *environment)
{
	for (; *environment != NULL; environment++)
		if (strncmp(*environment, "MALLOC_", 7) == 0)
			complain(source, NULL, *environment, strlen(*environment),
				read_malloc_variable(source->settings, *environment));
}

/* The value of a variable; NULL if there is none. */
static const char *value_of(char *const *environment, const char *variable)
{
	size_t bytes = strlen(variable);

	for (; *environment != NULL; environment++)
		if (strncmp(*environment, variable, bytes) == 0 && (*environment)[bytes] == '=')
			return *environment + bytes + 1;
	return NULL;
}

static const char *text_of(char *const *environment, const char *variable)
{
	const char *value = value_of(environment, variable);

	return value != NULL ? value : "";
}

bool settings_policy(const char *name, enum hl_policy *policy)
{
	for (unsigned i = 0; i < POLICY_COUNT; i++)
		if (strcmp(policies[i], name) == 0) {
			*policy = i;
			return true;
		}
	return false;
}

enum hl_policy settings_policy_of(char *const *environment)
{
	enum hl_policy policy = HL_POLICY_hybrid;

	settings_policy(text_of(environment, SETTINGS_POLICY_ENV), &policy);
	return policy;
}

static void read_policy(const struct source *source, const char *name)
{
	if (name[0] != '\0' && !settings_policy(name, &source->settings->policy))
		complain(source, SETTINGS_POLICY_ENV, name, strlen(name),
			"hybrid, brk or mmap is needed");
}

static void read_check(const struct source *source, const char *text)
{
	uint64_t every;
	const char *why = text[0] != '\0' ? parse_number(text, strlen(text), false, &every) : NULL;

	if (text[0] != '\0' && why == NULL)
		source->settings->check = every;
	complain(source, SETTINGS_CHECK_ENV, text, strlen(text), why);
}

void settings_read(
	struct settings *settings, char *const *environment, settings_report *report, void *context)
{
	struct source source = {settings, report, context};

	*settings = (struct settings){
		.policy = HL_POLICY_hybrid,
		.recorded = value_of(environment, HL_SESSION_ENV) != NULL,
	};
	for (unsigned i = 0; i < SETTINGS_COUNT; i++)
		settings->value[i] = names[i].initial;
	read_malloc_variables(&source, environment);
	read_list(&source, GLIBC_VARIABLE, text_of(environment, GLIBC_VARIABLE));
	read_list(&source, SETTINGS_SET_ENV, text_of(environment, SETTINGS_SET_ENV));
	read_policy(&source, text_of(environment, SETTINGS_POLICY_ENV));
	read_check(&source, text_of(environment, SETTINGS_CHECK_ENV));
}

const char *settings_policy_name(enum hl_policy policy)
{
	return policies[policy];
}

const char *settings_name(enum settings_name name)
{
	return names[name].name;
}
