/* SPDX-License-Identifier: MIT
 *
 * `heapledger analyze`: options, and which outputs are made.
 */
#include "analysis.h"
#include "export.h"
#include "import.h"
#include "progress.h"
#include "site.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "analyze"
#define NOTES_SHOWN 5

struct request {
	const char *json;
	const char *csv;
	const char *map;
	const char *profile;
	uint32_t top; /* 0 = not said */
	bool stacks;
	enum analysis_group group_by;
	struct window_request window;
};

#define TOP_MOST 1000000

static void print_notes(const struct trace *trace)
{
	char text[640];
	const char *note;
	unsigned i = 0;
	for (; i < NOTES_SHOWN && (note = trace_note(trace, i, text, sizeof(text))); i++)
		tool_fail(TOOL_OK, COMMAND, "note: %s", note);
	if (i == NOTES_SHOWN && trace_note(trace, i, text, sizeof(text)))
		tool_fail(TOOL_OK, COMMAND,
			"note: there is more of this kind; see --json, processes");
}

static bool is_stdout(const char *path)
{
	return path && !strcmp(path, "-");
}

static int write_profile(const struct export_profile *profile, const char *path)
{
	struct writer *out = malloc(sizeof(*out));
	int rc = out ? writer_open(out, path) : -ENOMEM;
	if (!rc) {
		rc = export_pprof(profile, out);
		int closed = writer_close(out, !rc);
		rc = rc ? rc : closed;
	}
	free(out);
	return rc;
}

static int write_outputs(const struct analysis *analysis, const struct export_profile *profile,
	const struct request *request)
{
	char error[640];
	if (request->csv && csv_write(analysis, request->csv, error, sizeof(error)))
		return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s", error);
	if (request->json) {
		int rc = json_write(analysis, request->json);
		if (rc)
			return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s: %s", request->json,
				strerror(-rc));
	}
	if (request->map) {
		int rc = json_map_write(analysis, request->map);
		if (rc)
			return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s: %s", request->map,
				strerror(-rc));
	}
	if (request->profile) {
		int rc = write_profile(profile, request->profile);
		if (rc)
			return tool_fail(TOOL_USAGE, COMMAND, "cannot write %s: %s",
				request->profile, strerror(-rc));
	}
	if (!is_stdout(request->json) && !is_stdout(request->map))
		summary_print(analysis);
	return TOOL_OK;
}

/* A trace without stacks knows no modules: its callers stay addresses. */
static int open_symbols(struct trace *trace, struct site_finder *finder)
{
	if (trace_read_stacks(trace))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace->error);
	if (trace->stacks.module_count && !(finder->symbols = symbols_open(trace)))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory for symbols");
	return TOOL_OK;
}

static int run(struct analysis *analysis, struct trace *trace, const struct request *request)
{
	struct progress progress;
	analysis->progress = &progress;
	progress_open(&progress, trace_records(trace), analysis->window.set);
	int rc = analysis_run(analysis, trace,
		(request->csv ? ANALYSIS_TIMELINES | ANALYSIS_INSTANTS | ANALYSIS_PEAKS : 0) |
			(request->map ? ANALYSIS_MAP : 0) |
			(request->profile ? ANALYSIS_PEAKS | ANALYSIS_SITES : 0) |
			(request->json || request->group_by ? ANALYSIS_PEAKS : 0));
	progress_close(&progress);
	analysis->progress = NULL;
	return rc;
}

static int analyze(const char *path, const struct request *request)
{
	struct trace trace;
	struct analysis analysis = {0};
	struct export_profile profile = {0};
	struct site_finder finder = {.trace = &trace};
	int code = TOOL_OK;

	code = import_directory(path, COMMAND, NULL);
	if (code)
		return code;
	if (trace_open(&trace, path))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
	else
		code = window_find(&analysis.window, &trace, &request->window, COMMAND);
	analysis.top = request->top;
	analysis.group_by = request->group_by;
	if (!code) {
		print_notes(&trace);
		if (request->profile)
			export_profile_begin(&profile, &trace);
		if (run(&analysis, &trace, request))
			code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
	}
	if (!code && analysis.window.set && !analysis.count)
		code = tool_fail(TOOL_USAGE, COMMAND, "no recorded process was there in that time");
	if (!code)
		code = open_symbols(&trace, &finder);
	if (!code) {
		analysis.describe = site_find;
		analysis.frames = request->stacks ? site_frames : NULL;
		analysis.describe_context = &finder;
		findings_make(&analysis.findings, &analysis);
		if (groups_make(&analysis))
			code = tool_fail(TOOL_UNREADABLE, COMMAND,
				"%s: not enough memory to analyse it", path);
	}
	profile.symbols = finder.symbols;
	if (!code && request->profile && export_profile_make(&profile, &analysis))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", profile.error);
	if (!code)
		code = write_outputs(&analysis, &profile, request);
	export_profile_free(&profile);
	symbols_close(finder.symbols);
	analysis_free(&analysis);
	trace_close(&trace);
	return code;
}

/* Digits only, 1 to TOP_MOST. */
static bool parse_top(const char *text, uint32_t *top)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < 1 || value > TOP_MOST)
		return false;
	*top = (uint32_t)value;
	return true;
}

int cmd_analyze(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", required_argument, NULL, 'j'},
		{"csv", required_argument, NULL, 'c'},
		{"map", required_argument, NULL, 'm'},
		{"profile", required_argument, NULL, 'r'},
		{"top", required_argument, NULL, 't'},
		{"stacks", no_argument, NULL, 's'},
		{"group-by", required_argument, NULL, 'g'},
		{"from", required_argument, NULL, 'f'},
		{"to", required_argument, NULL, 'u'},
		{"phase", required_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	struct request request = {0};
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (option == 'j')
			request.json = optarg;
		else if (option == 'c')
			request.csv = optarg;
		else if (option == 'f')
			request.window.from = optarg;
		else if (option == 'u')
			request.window.to = optarg;
		else if (option == 'p')
			request.window.phase = optarg;
		else if (option == 'm')
			request.map = optarg;
		else if (option == 'r')
			request.profile = optarg;
		else if (option == 's')
			request.stacks = true;
		else if (option == 'g') {
			request.group_by = analysis_group_named(optarg);
			if (!request.group_by)
				return tool_fail(TOOL_USAGE, COMMAND,
					"--group-by %s: site, size, thread or module is needed",
					optarg);
		} else if (option != 't')
			return tool_bad_option(COMMAND, option, argv, options);
		else if (!parse_top(optarg, &request.top))
			return tool_fail(TOOL_USAGE, COMMAND,
				"--top %s: a number of rows from 1 to 1000000 is needed", optarg);
	}
	if (is_stdout(request.json) && is_stdout(request.map))
		return tool_fail(
			TOOL_USAGE, COMMAND, "--json - and --map - cannot both be standard output");
	if (is_stdout(request.profile))
		return tool_fail(TOOL_USAGE, COMMAND,
			"--profile needs a file; export --format pprof writes to standard output");
	bool window = request.window.from || request.window.to || request.window.phase;
	if (window && (request.map || request.profile))
		return tool_fail(TOOL_USAGE, COMMAND,
			"--%s shows the whole recording: not with --from, --to or --phase",
			request.map ? "map" : "profile");
	int code = tool_one_trace(COMMAND, argc, argv);
	return code ? code : analyze(argv[optind], &request);
}
