/* SPDX-License-Identifier: MIT
 *
 * `heapledger import`: of a directory, what the commands that read a trace do by themselves
 * (import.h); of a file, a trace of the log that another tool wrote (import_text.h).
 */
#include "import.h"
#include "import_text.h"
#include "text_formats.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#define COMMAND "import"

static int import_raw(const char *path, const struct text_import_options *options)
{
	bool found;
	int code;

	if (options->format != NULL || options->directory != NULL || options->force)
		return tool_fail(TOOL_USAGE, COMMAND,
			"%s is a directory: --format, -o and --force are for files", path);
	code = import_directory(path, COMMAND, &found);
	if (code == TOOL_OK && !found)
		tool_fail(TOOL_OK, COMMAND, "%s: there is nothing to import", path);
	return code;
}

static int check_format(const char *name)
{
	if (text_format_find(name) != NULL)
		return TOOL_OK;
	return tool_fail(
		TOOL_USAGE, COMMAND, "--format: \"%s\" is not one of " TEXT_FORMAT_NAMES, name);
}

static int import(const struct text_import_options *options)
{
	struct stat status;

	if (strcmp(options->path, "-") == 0)
		return import_text(options, COMMAND);
	if (stat(options->path, &status) != 0)
		return tool_fail(
			TOOL_UNREADABLE, COMMAND, "%s: %s", options->path, strerror(errno));
	if (S_ISDIR(status.st_mode))
		return import_raw(options->path, options);
	return import_text(options, COMMAND);
}

int cmd_import(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"format", required_argument, NULL, 'F'},
		{"output", required_argument, NULL, 'o'},
		{"force", no_argument, NULL, 'f'},
		{NULL, 0, NULL, 0},
	};
	struct text_import_options options = {0};
	int option, code = TOOL_OK;

	opterr = 0;
	while (code == TOOL_OK &&
		(option = getopt_long(argc, argv, ":o:", long_options, NULL)) != -1) {
		if (option == 'F')
			code = check_format(options.format = optarg);
		else if (option == 'o')
			options.directory = optarg;
		else if (option == 'f')
			options.force = true;
		else
			code = tool_bad_option(COMMAND, option, argv, long_options);
	}
	if (code != TOOL_OK)
		return code;
	if (argc - optind != 1)
		return tool_fail(TOOL_USAGE, COMMAND, "one directory or file is needed, %d given",
			argc - optind);
	options.path = argv[optind];
	return import(&options);
}
