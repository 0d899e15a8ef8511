/* SPDX-License-Identifier: MIT
 *
 * The command `heapledger`: a table of commands, and their help. The commands themselves are in the
 * files named for them; `report`, `check` and `compare` are Python scripts beside us.
 */
#include "privilege.h"
#include "script.h"
#include "suggest.h"
#include "tool.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *script; /* instead of run */
	const char *usage;
	const char *summary;
	const char *help;
};

static const struct command commands[] = {
	{"record", cmd_record, NULL, "[OPTION...] [--] COMMAND [ARGUMENT...]",
		"run a program and record its heap", NULL},
	{"attach", cmd_attach, NULL, "[OPTION...] PID", "follow a process that runs already", NULL},
	{"mark", cmd_mark, NULL, "DIR NAME", "begin a phase in a recording that runs",
		"Begins the phase NAME, of up to 79 bytes, in every process that is being\n"
		"recorded into DIR. Exits 0 when that is done, 1 when no recording runs there or\n"
		"no process is being recorded, 2 for wrong usage, 3 when DIR cannot be opened,\n"
		"4 when the recording does not answer.\n"},
#ifdef HEAPLEDGER_VERIFY
	{"verify", cmd_verify, NULL, "DIR", "compare a trace with the kernel's own account",
		"Matches every system call of the trace with what the kernel saw.\n"
		"Exits 0 when VERIFIED, 1 when they differ, 4 when the evidence is not enough.\n"},
#endif
	{"analyze", cmd_analyze, NULL, "[OPTION...] DIR", "where the memory is and what it cost",
		"Prints a summary of the trace in DIR.\n"
		"  --json FILE   write the figures as JSON (\"-\" = standard output, no summary)\n"
		"  --csv DIR     write the time lines as CSV files into this folder\n"
		"  --map FILE    write what lay at which address, over time, as JSON\n"
		"  --profile FILE   write what call stacks did and hold, for pprof\n"
		"  --top N       so many rows of each table and list of places\n"
		"  --stacks      in JSON, of each place the functions of its call stack\n"
		"  --group-by WHAT  also what holds memory, by site, size, thread or module\n"
		"  --from TIME   only what came at TIME or later: 1.5s, 200ms, 2m, 30% of the\n"
		"                recording, or seconds since its start\n"
		"  --to TIME     only what came until then\n"
		"  --phase NAME  only the (first) phase of that name\n"},
	{"import", cmd_import, NULL, "[OPTION...] FILE | DIR",
		"make a trace of another tool's log, or of raw files",
		"Makes a trace of FILE (\"-\" = standard input), the log of Mozilla's logalloc,\n"
		"of glibc's mtrace or of Android's memory_replay, plain or compressed with gzip\n"
		"or zstd. What such a log does not say is unknown to the commands that read the\n"
		"trace.\n"
		"  --format NAME     logalloc, mtrace or memory_replay (default: as lines tell)\n"
		"  -o, --output DIR  the trace (default: heapledger.FILE)\n"
		"  --force           replace a trace that is there\n"
		"Exits 0, 1 when lines were malformed and left out, 2 for wrong usage or an\n"
		"output that cannot be written, 3 when FILE cannot be read or is no such log.\n"
		"\n"
		"Of DIR it makes a trace of the raw files that processes left there, recorded\n"
		"with LD_PRELOAD alone. Commands that read a trace do this by themselves.\n"},
	{"report", NULL, "report.py", "[OPTION...] DIR",
		"make a report with figures, HTML or PDF", NULL},
	{"check", NULL, "check.py", "DIR --budget FILE", "compare with a budget, for CI", NULL},
	{"compare", NULL, "compare.py", "[OPTION...] -- COMMAND [ARGUMENT...] | BEFORE AFTER",
		"a program under several policies and allocators, or two traces", NULL},
	{"dump", cmd_dump, NULL, "[OPTION...] DIR", "print one event a line",
		"Prints every event of the trace in DIR, one a line.\n"
		"  --stream NAME    only this stream, such as 1234.1\n"
		"  --kind KIND,...  only these kinds, such as malloc,free,brk\n"
		"  --no-time        leave out times, so that two runs can be compared\n"
		"  --stacks         after each event the frames of its call stack\n"},
	{"export", cmd_export, NULL, "--format NAME [-o FILE] [--value NAME] [--force] DIR",
		"write it in the formats of other tools",
		"Writes what is in the trace in DIR in a format that other tools open.\n"
		"  --format NAME      collapsed    stacks for flame graphs, one a line\n"
		"                     pprof        a profile for pprof\n"
		"                     trace-event  a time line for Perfetto, in JSON\n"
		"                     csv          the tables of `analyze --csv`\n"
		"  -o, --output FILE  (\"-\" = standard output, the default); of csv a folder\n"
		"  --value NAME       what collapsed stacks count:\n"
		"                     peak, peak-blocks    live when most was mapped (default)\n"
		"                     end, end-blocks      live at the end\n"
		"                     pinned               free bytes held back at the peak\n"
		"                     allocated, allocations   all that was asked for\n"
		"                     syscalls, syscall-time   count, nanoseconds\n"
		"  --force            replace an output that is there\n"
		"Exits 0, 2 for wrong usage or an output that cannot be written, 3 when DIR\n"
		"cannot be read, 4 when what is wanted is not known of it.\n"},
#ifdef HEAPLEDGER_DOCTOR
	{"doctor", cmd_doctor, NULL, "", "what works on this machine",
		"Says what heapledger can do here, and what to do about the rest.\n"},
#endif
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* The one that is most like it; the first of several. */
static int no_such_command(const char *name)
{
	const struct command *best = &commands[0];
	for (size_t i = 1; i < COMMAND_COUNT; i++)
		if (suggest_distance(name, commands[i].name) < suggest_distance(name, best->name))
			best = &commands[i];
	if (!suggest_is_close(suggest_distance(name, best->name), best->name))
		return tool_fail(TOOL_USAGE, name, "no such command; see heapledger --help");
	return tool_fail(TOOL_USAGE, name, "no such command; did you mean %s?", best->name);
}

static void print_overview(FILE *to)
{
	fputs("usage: heapledger COMMAND [ARGUMENT...]\n\n"
	      "Where a program's heap memory is, why it has not gone back to the kernel, and\n"
	      "which system calls it cost.\n\n",
		to);
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].summary);
	fputs("\n  heapledger help COMMAND   how to use it\n"
	      "  heapledger --version\n\n"
	      "Start with:  heapledger record -o trace -- your-program\n"
	      "             heapledger report trace -o report.html\n",
		to);
}

/* A result that did not reach its reader is no success; a finding stays one. */
static int flush(const char *name, int code)
{
	bool failed = fflush(stdout) || ferror(stdout);
	if (!failed || code != TOOL_OK)
		return code;
	return tool_fail(TOOL_USAGE, name, "cannot write to standard output");
}

static int run(const struct command *command, int argc, char **argv)
{
	if (command->script)
		return script_run(command->script, argc, argv);
	int code = command->run(argc, argv);
	/* What it printed was the program's, and so is its status. */
	return command->run == cmd_record ? code : flush(command->name, code);
}

/* Commands without a text of their own answer --help themselves. */
static int help(const struct command *command)
{
	if (!command->help) {
		char name[16], option[] = "--help";
		snprintf(name, sizeof(name), "%s", command->name);
		char *argv[] = {name, option, NULL};
		return run(command, 2, argv);
	}
	printf("usage: heapledger %s %s\n\n%s", command->name, command->usage, command->help);
	return flush(command->name, TOOL_OK);
}

static bool is_one_of(const char *word, const char *a, const char *b)
{
	return !strcmp(word, a) || !strcmp(word, b);
}

/* Where one is closed, the next file to be opened would take its number and get our messages. What
 * stands in for it can be neither read nor written, and a program we start does not get it. */
static void hold_standard_descriptors(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/", O_PATH | O_CLOEXEC) != fd)
			return;
}

/* Set-user-ID would let anybody read and write as its owner. And capabilities of the file are for
 * the probe: `record`, `attach` and `doctor` see to them. */
static int check_privileges(const char *name, const struct command *command)
{
	if (getuid() != geteuid() || getgid() != getegid())
		return tool_fail(TOOL_USAGE, name,
			"not with the rights of a set-user-ID or set-group-ID program; for the "
			"kernel probe setcap cap_bpf,cap_perfmon+ep is enough");
	if (command->run == cmd_record || command->run == cmd_attach ||
		command->run == cmd_doctor || !privilege_give_up())
		return TOOL_OK;
	return tool_fail(TOOL_USAGE, name, "privileges cannot be given up");
}

int main(int argc, char **argv)
{
	hold_standard_descriptors();
	if (argc < 2) {
		print_overview(stderr);
		return TOOL_USAGE;
	}
	if (is_one_of(argv[1], "--version", "-V")) {
		puts("heapledger " HEAPLEDGER_VERSION);
		return flush(argv[1], TOOL_OK);
	}
	bool wants_help = is_one_of(argv[1], "help", "--help") || !strcmp(argv[1], "-h");
	if (wants_help && argc < 3) {
		print_overview(stdout);
		return flush("help", TOOL_OK);
	}
	const char *name = argv[wants_help ? 2 : 1];
	const struct command *command = find(name);
	if (!command)
		return no_such_command(name);
	int code = check_privileges(name, command);
	if (code != TOOL_OK)
		return code;
	if (wants_help)
		return help(command);
	/* `record --help` is record's own: what follows may be the program's. */
	if (argc == 3 && is_one_of(argv[2], "--help", "-h") && command->run != cmd_record)
		return help(command);
	return run(command, argc - 1, argv + 1);
}
