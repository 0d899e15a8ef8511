/* SPDX-License-Identifier: MIT
 *
 * See tuning.h.
 */
#include "tuning.h"
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

int tuning_set(const char *item)
{
	const char *before = getenv(SETTINGS_SET_ENV);
	struct settings scratch = {0};
	const char *why = settings_set(&scratch, item, strlen(item));
	char *list;
	int rc;

	if (why != NULL)
		return tool_fail(TOOL_USAGE, "record", "--set: %s: %s", item, why);
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

void tuning_read(struct settings *settings)
{
	settings_read(settings, environ, report, NULL);
}
