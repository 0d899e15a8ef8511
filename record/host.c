/* SPDX-License-Identifier: MIT
 *
 * See host.h.
 */
#include "host.h"
#include "manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

static json_t *text_or_null(const char *text)
{
	return text != NULL && text[0] != '\0' ? manifest_text(text, strlen(text)) : json_null();
}

/* What follows a name and signs of another set, of the first line of a file that begins with the
 * name; up to any of `ends`. */
static json_t *value_in(const char *path, const char *name, const char *signs, const char *ends)
{
	FILE *file = fopen(path, "re");
	json_t *value = NULL;
	char *line = NULL;
	size_t room = 0;

	while (file != NULL && value == NULL && getline(&line, &room, file) > 0) {
		if (strncmp(line, name, strlen(name)) != 0)
			continue;
		char *text = line + strlen(name);
		text += strspn(text, signs);
		text[strcspn(text, ends)] = '\0';
		value = text_or_null(text);
	}
	free(line);
	if (file != NULL)
		fclose(file);
	return value;
}

static json_t *distribution(void)
{
	json_t *name = value_in("/etc/os-release", "PRETTY_NAME=", "\"'", "\"'\n");

	if (name == NULL)
		name = value_in("/usr/lib/os-release", "PRETTY_NAME=", "\"'", "\"'\n");
	return name != NULL ? name : json_null();
}

static json_t *cpu_model(void)
{
	json_t *model = value_in("/proc/cpuinfo", "model name", "\t :", "\n");

	return model != NULL ? model : json_null();
}

static json_t *memory(void)
{
	struct sysinfo info;

	return sysinfo(&info) == 0 ? json_integer((json_int_t)(info.totalram * info.mem_unit))
				   : json_null();
}

json_t *host_object(void)
{
	struct utsname host;
	char libc[64] = "";

	uname(&host);
	confstr(_CS_GNU_LIBC_VERSION, libc, sizeof(libc));
	return json_pack("{s:s, s:o, s:o, s:o, s:i, s:o, s:i}", "kernel", host.release,
		"distribution", distribution(), "libc", text_or_null(libc), "cpu_model",
		cpu_model(), "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes", memory(),
		"page_bytes", (int)sysconf(_SC_PAGESIZE));
}
