/* SPDX-License-Identifier: MIT
 *
 * `heapledger export`: options, and which format is written.
 */
#include "export.h"
#include "import.h"
#include "suggest.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMAND "export"
#define NOTES_SHOWN 5

enum format { FORMAT_NONE, FORMAT_COLLAPSED, FORMAT_PPROF, FORMAT_EVENTS, FORMAT_CSV };

static const char *const formats[] = {
	[FORMAT_COLLAPSED] = "collapsed",
	[FORMAT_PPROF] = "pprof",
	[FORMAT_EVENTS] = "trace-event",
	[FORMAT_CSV] = "csv",
};

struct request {
	enum format format;
	enum export_value value;
	bool value_said;
	bool force;
	const char *output; /* NULL = not said */
};

static void print_notes(const struct trace *trace)
{
	char text[640];
	const char *note;
	for (unsigned i = 0; i < NOTES_SHOWN && (note = trace_note(trace, i, text, sizeof(text)));
		i++)
		tool_fail(TOOL_OK, COMMAND, "note: %s", note);
}

static void note_unknown(const struct export_profile *profile)
{
	char list[256] = "";
	for (unsigned i = 0; i < EXPORT_VALUES; i++)
		if (!profile->known[i])
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
				*list ? ", " : "", export_name(i));
	if (*list)
		tool_fail(TOOL_OK, COMMAND, "note: not known of this recording, and left out: %s",
			list);
}

/* ---- one format each ------------------------------------------------------------------------- */

static int close_output(struct writer *out, const struct request *request, int rc)
{
	int closed = writer_close(out, !rc);
	if (closed == -EPIPE && !strcmp(request->output, "-"))
		return rc ? TOOL_UNREADABLE : TOOL_OK; /* `| head` has seen enough */
	if (closed && !rc)
		return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s: %s", request->output,
			strerror(-closed));
	return rc ? TOOL_UNREADABLE : TOOL_OK;
}

static int open_output(struct writer *out, const struct request *request)
{
	int rc = writer_open(out, request->output);
	return rc ? tool_fail(TOOL_USAGE, COMMAND, "cannot write %s: %s", request->output,
			    strerror(-rc))
		  : TOOL_OK;
}

static int write_profile(
	const struct export_profile *profile, const struct request *request, struct writer *out)
{
	int code = open_output(out, request);
	if (code)
		return code;
	int rc = request->format == FORMAT_PPROF ? export_pprof(profile, out)
						 : export_collapsed(profile, request->value, out);
	if (rc)
		tool_fail(TOOL_UNREADABLE, COMMAND, "cannot make the profile: %s", strerror(-rc));
	return close_output(out, request, rc);
}

static bool any_known(const struct export_profile *profile)
{
	bool any = false;
	for (unsigned i = 0; i < EXPORT_VALUES; i++)
		any = any || profile->known[i];
	return any;
}

static int check_known(const struct export_profile *profile, const struct request *request)
{
	if (request->format == FORMAT_PPROF ? any_known(profile) : profile->known[request->value])
		return TOOL_OK;
	if (request->format == FORMAT_PPROF)
		return tool_fail(TOOL_NO_EVIDENCE, COMMAND,
			"nothing that has a call stack is known of this recording");
	return tool_fail(TOOL_NO_EVIDENCE, COMMAND,
		"--value %s is not known of this recording, whose allocator is the program's own%s",
		export_name(request->value),
		profile->known[EXPORT_ALLOCATED] ? "; --value allocated is" : "");
}

static int profile(struct export_profile *made, const struct analysis *analysis,
	const struct request *request, struct writer *out)
{
	int code = TOOL_OK;
	if (trace_read_stacks(analysis->trace))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", analysis->trace->error);
	else if (export_profile_make(made, analysis))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", made->error);
	if (!code && analysis->trace->stacks.module_count &&
		!(made->symbols = symbols_open(analysis->trace)))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory for symbols");
	if (!code)
		code = check_known(made, request);
	if (!code && request->format == FORMAT_PPROF)
		note_unknown(made);
	if (!code)
		code = write_profile(made, request, out);
	symbols_close(made->symbols);
	return code;
}

static int events(struct analysis *analysis, const struct request *request, struct writer *out)
{
	const struct trace *trace = analysis->trace;
	for (size_t i = 0; i < trace->stream_count; i++)
		if (!trace_has_times(&trace->streams[i]))
			return tool_fail(TOOL_NO_EVIDENCE, COMMAND,
				"%s: the log that was imported has no times", trace->path);
	if (analysis->total.observed)
		tool_fail(TOOL_OK, COMMAND,
			"note: the allocator is the program's own, and its system calls and free "
			"memory are left out");
	int code = open_output(out, request);
	if (code)
		return code;
	int rc = export_events(analysis, out);
	if (rc)
		tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace->error);
	return close_output(out, request, rc);
}

static int csv(const struct analysis *analysis, const struct request *request)
{
	char error[640];
	if (csv_write(analysis, request->output, error, sizeof(error)))
		return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s", error);
	return TOOL_OK;
}

static int export_trace(const char *path, const struct request *request, struct writer *out)
{
	bool stacks = request->format == FORMAT_COLLAPSED || request->format == FORMAT_PPROF;
	struct trace trace;
	struct analysis analysis = {0};
	struct export_profile made = {0};
	int code = import_directory(path, COMMAND, NULL);
	if (code)
		return code;
	if (trace_open(&trace, path))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
	if (!code) {
		print_notes(&trace);
		unsigned wants = stacks ? ANALYSIS_PEAKS | ANALYSIS_SITES : ANALYSIS_TIMELINES;
		wants |= request->format == FORMAT_CSV ? ANALYSIS_INSTANTS | ANALYSIS_PEAKS : 0;
		if (stacks)
			export_profile_begin(&made, &trace);
		if (analysis_run(&analysis, &trace, wants))
			code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
	}
	if (!code)
		code = stacks                             ? profile(&made, &analysis, request, out)
		       : request->format == FORMAT_EVENTS ? events(&analysis, request, out)
							  : csv(&analysis, request);
	export_profile_free(&made);
	analysis_free(&analysis);
	trace_close(&trace);
	return code;
}

/* ---- options --------------------------------------------------------------------------------- */

static int parse_format(const char *text, struct request *request)
{
	for (enum format i = FORMAT_COLLAPSED; i <= FORMAT_CSV; i++)
		if (!strcmp(formats[i], text))
			request->format = i;
	if (request->format == FORMAT_NONE)
		return tool_fail(TOOL_USAGE, COMMAND,
			"--format %s: collapsed, pprof, trace-event or csv is needed", text);
	return TOOL_OK;
}

static const char *value_name(unsigned number)
{
	return export_name((enum export_value)number);
}

static int parse_value(const char *text, struct request *request)
{
	for (unsigned i = 0; i < EXPORT_VALUES; i++) {
		if (strcmp(export_name(i), text) != 0)
			continue;
		request->value = i;
		request->value_said = true;
		return TOOL_OK;
	}
	const char *meant = suggest_of(text, value_name, EXPORT_VALUES);
	if (meant)
		return tool_fail(TOOL_USAGE, COMMAND,
			"--value %s: there is no such value; did you mean %s?", text, meant);
	return tool_fail(TOOL_USAGE, COMMAND,
		"--value %s: there is no such value (see heapledger export --help)", text);
}

/* A pipe or a terminal is written to, not replaced. */
static bool is_there(const char *path)
{
	struct stat status;
	return !stat(path, &status) && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
}

static int check_request(struct request *request)
{
	if (request->format == FORMAT_NONE)
		return tool_fail(TOOL_USAGE, COMMAND,
			"--format is needed: collapsed, pprof, trace-event or csv");
	if (request->value_said && request->format != FORMAT_COLLAPSED)
		return tool_fail(TOOL_USAGE, COMMAND, "--value is for --format collapsed");
	if (!request->output && request->format == FORMAT_CSV)
		return tool_fail(TOOL_USAGE, COMMAND, "--format csv needs a folder, -o DIR");
	if (!request->output)
		request->output = "-";
	if (request->format == FORMAT_PPROF && !strcmp(request->output, "-") &&
		isatty(STDOUT_FILENO))
		return tool_fail(TOOL_USAGE, COMMAND,
			"a pprof profile is not for a terminal; -o FILE writes a file");
	if (!request->force && strcmp(request->output, "-") != 0 && is_there(request->output))
		return tool_fail(TOOL_USAGE, COMMAND, "%s exists already; --force replaces it",
			request->output);
	return TOOL_OK;
}

int cmd_export(int argc, char **argv)
{
	static const struct option options[] = {
		{"format", required_argument, NULL, 'f'},
		{"value", required_argument, NULL, 'v'},
		{"output", required_argument, NULL, 'o'},
		{"force", no_argument, NULL, 'F'},
		{NULL, 0, NULL, 0},
	};
	struct request request = {.value = EXPORT_PEAK};
	int option, code = TOOL_OK;

	opterr = 0;
	while (!code && (option = getopt_long(argc, argv, ":o:", options, NULL)) != -1) {
		if (option == 'f')
			code = parse_format(optarg, &request);
		else if (option == 'v')
			code = parse_value(optarg, &request);
		else if (option == 'o')
			request.output = optarg;
		else if (option == 'F')
			request.force = true;
		else
			code = tool_bad_option(COMMAND, option, argv, options);
	}
	if (!code)
		code = tool_one_trace(COMMAND, argc, argv);
	if (!code)
		code = check_request(&request);
	if (code)
		return code;
	struct writer *out = malloc(sizeof(*out));
	if (!out)
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	signal(SIGPIPE, SIG_IGN);
	code = export_trace(argv[optind], &request, out);
	free(out);
	return code;
}
