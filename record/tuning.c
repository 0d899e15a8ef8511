/* SPDX-License-Identifier: MIT
 *
 * See tuning.h.
 */
#include "tuning.h"
#include "suggest.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int no_memory(void)
{
	return tool_fail(TOOL_CANNOT_RUN, "record", "no memory");
}

int tuning_policy(const char *policy)
{
	enum hl_policy known;

	if (!settings_policy(policy, &known))
		return tool_fail(TOOL_USAGE, "record",
			"--policy: hybrid, brk or mmap is needed, not %s", policy);
	return setenv(SETTINGS_POLICY_ENV, policy, 1) == 0 ? 0 : no_memory();
}

static const char *name_of(unsigned number)
{
	return settings_name((enum settings_name)number);
}

/* A name that is one of ours has another fault. */
static int bad_item(const char *item, const char *why)
{
	char name[64];
	const char *meant;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(item, "="), item);
	meant = suggest_of(name, name_of, SETTINGS_COUNT);
	if (meant == NULL || strcmp(meant, name) == 0)
		return tool_fail(TOOL_USAGE, "record", "--set: %s: %s", item, why);
	return tool_fail(
		TOOL_USAGE, "record", "--set: %s: %s; did you mean %s?", item, why, meant);
}

int tuning_set(const char *item)
{
	const char *before = getenv(SETTINGS_SET_ENV);
	struct settings scratch = {0};
	const char *why = settings_set(&scratch, item, strlen(item));
	char *list;
	int rc;

	if (why != NULL)
		return bad_item(item, why);
	if (before == NULL)
		before = "";
	if (asprintf(&list, "%s%s%s", before, before[0] != '\0' ? ":" : "", item) < 0)
		return no_memory();
	rc = setenv(SETTINGS_SET_ENV, list, 1);
	free(list);
	return rc == 0 ? 0 : no_memory();
}

static void report(void *context, const struct settings_fault *fault)
{
	(void)context;
	tool_fail(TOOL_OK, "record", "ignored: %s%s%.*s: %s",
		fault->variable != NULL ? fault->variable : "", fault->variable != NULL ? ": " : "",
		(int)fault->bytes, fault->item, fault->why);
}

/* What gives a setting when nothing else is there. */
static void find_givers(const char *prefix, const char *const *names, const char **given_by)
{
	for (char **variable = environ; *variable != NULL; variable++) {
		char *alone[] = {*variable, NULL};
		struct settings settings;

		if (strncmp(*variable, prefix, strlen(prefix)) != 0)
			continue;
		settings_read(&settings, alone, NULL, NULL);
		for (unsigned i = 0; i < SETTINGS_COUNT; i++)
			if ((settings.given >> i & 1) != 0)
				given_by[i] = names != NULL ? names[i] : prefix;
	}
}

void tuning_read(struct settings *settings, const char *given_by[SETTINGS_COUNT])
{
	static const char *const names[] = {
#define HL_SETTING(name, initial, least, most, variable) variable,
#include "heapledger/settings.def"
	};

	settings_read(settings, environ, report, NULL);
	/* The later is above the earlier. */
	find_givers("MALLOC_", names, given_by);
	find_givers("GLIBC_TUNABLES", NULL, given_by);
	find_givers(SETTINGS_SET_ENV, NULL, given_by);
}
