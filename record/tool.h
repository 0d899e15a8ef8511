/* SPDX-License-Identifier: MIT
 *
 * What every command of heapledger shares: exit codes and the one way to say what is wrong. Used by
 * the commands in record/ and analyzer/; library code below them returns -errno and stays silent.
 */
#ifndef HEAPLEDGER_TOOL_H
#define HEAPLEDGER_TOOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes of every command; `record` exits with the program's own status, and with
 * TOOL_CANNOT_RUN or TOOL_NOT_FOUND (as shells do) when there is no program to run. */
enum tool_exit {
	TOOL_OK = 0,
	TOOL_FINDING = 1,     /* a finding or a regression */
	TOOL_USAGE = 2,       /* wrong usage */
	TOOL_UNREADABLE = 3,  /* input that cannot be read */
	TOOL_NO_EVIDENCE = 4, /* not enough evidence for an answer */
	TOOL_CANNOT_RUN = 126,
	TOOL_NOT_FOUND = 127,
};

/* Prints "heapledger: <command>: <message>\n" to stderr in one write, whatever names the message
 * holds on one line (escape.h); returns `code`. */
int tool_fail(enum tool_exit code, const char *command, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Says what getopt_long, with ':' before the letters and opterr 0, has found wrong, and which of
 * its options was meant if one is close: `letter` is what it returned, ':' or '?'. Returns
 * TOOL_USAGE. */
int tool_bad_option(const char *command, int letter, char **argv, const struct option *options);

/* After the options one trace directory is left, argv[optind]; else says what is wrong, and whether
 * an option has had it. TOOL_OK or TOOL_USAGE. */
int tool_one_trace(const char *command, int argc, char **argv);

/* Parses "64", "64K", "64 MiB", "1.5 GiB" into bytes (binary units). 0 or -EINVAL. */
int tool_parse_size(const char *text, uint64_t *bytes);

/* Parses "500ms", "10s", "2m", "1.5h" into nanoseconds, more than 0. 0 or -EINVAL. */
int tool_parse_time(const char *text, uint64_t *ns);

/* Milliseconds of --interval into nanoseconds; says what is wrong with them. 0 or TOOL_USAGE. */
int tool_parse_interval(const char *command, const char *text, uint64_t *ns);

/* Formats bytes for people: "640 B", "64.0 KiB", "1.50 GiB". Returns buffer. */
char *tool_format_size(char *buffer, size_t length, uint64_t bytes);

/* "1,234,567"; 27 bytes are always enough. Returns its start, somewhere in the buffer. */
char *tool_format_count(char *buffer, size_t length, uint64_t count);

/* The same two in one of a few static buffers: enough for one sentence. */
const char *tool_size(uint64_t bytes);
const char *tool_count(uint64_t count);

/* The last part of a path; "" if it ends in a slash. */
const char *tool_base_name(const char *path);

/* What takes a line back that a terminal shows, and whether this one, by TERM, understands it. */
#define TOOL_ERASE "\r\033[K"
bool tool_can_erase(void);

/* The commands. argv[0] is the command's name. */
int cmd_record(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_mark(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_analyze(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

#endif
