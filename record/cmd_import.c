/* SPDX-License-Identifier: MIT
 *
 * `heapledger import`: what the commands that read a trace do by themselves (import.h).
 */
#include "import.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#define COMMAND "import"

int cmd_import(int argc, char **argv)
{
	static const struct option options[] = {{NULL, 0, NULL, 0}};
	struct stat status;
	const char *path;
	int option, code;
	bool found;

	opterr = 0;
	option = getopt_long(argc, argv, ":", options, NULL);
	if (option != -1)
		return tool_bad_option(COMMAND, option, argv);
	if (argc - optind != 1)
		return tool_fail(
			TOOL_USAGE, COMMAND, "one directory is needed, %d given", argc - optind);
	path = argv[optind];
	if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "%s: %s", path,
			strerror(errno != 0 ? errno : ENOTDIR));
	code = import_directory(path, COMMAND, &found);
	if (code == TOOL_OK && !found)
		tool_fail(TOOL_OK, COMMAND, "%s: there is nothing to import", path);
	return code;
}
