/* SPDX-License-Identifier: MIT
 *
 * `heapledger attach`: options, the order of things, the exit status. The work is in target.c (what
 * the process is), follow.c (the loop) and manifest.c (session.json).
 */
#include "escape.h"
#include "follow.h"
#include "manifest.h"
#include "output.h"
#include "privilege.h"
#include "target.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define COMMAND "attach"
#define INTERVAL_NS UINT64_C(10000000)

struct options {
	const char *directory;
	const char *kernel;
	const char *caller; /* who called sudo, if anybody did */
	uint64_t interval_ns;
	uint64_t duration_ns;
	bool force;
	bool quiet;
	bool calls;
	pid_t pid;
};

static const char usage[] =
	"usage: heapledger attach [-o DIR] [--force] [--duration TIME] [--interval MS]\n"
	"                         [--malloc] [--kernel auto|require|off] [-q] PID\n"
	"\n"
	"Follows a process that runs already, and what it starts: system calls, page\n"
	"faults and resident memory. Ends with Ctrl-C, the duration or the process,\n"
	"which is not stopped, signalled or changed.\n"
	"\n"
	"  -o, --output DIR    the trace (default: heapledger.<program>.<pid>)\n"
	"      --force         replace DIR if it holds a trace\n"
	"      --duration TIME ends after this long, as in 500ms, 10s or 2m\n"
	"      --interval MS   between two samples of resident memory (default: 10)\n"
	"      --malloc        record its allocator's calls (not its children's), too, by\n"
	"                      probes that cost it time at each; how much is measured\n"
	"      --kernel MODE   the kernel's record of the system calls: auto (if it can\n"
	"                      be had), require, off (default: auto)\n"
	"  -q, --quiet         no live line and no summary\n"
	"\n"
	"Exits with 0; 2 wrong usage, 4 no kernel record with --kernel require or\n"
	"--malloc, 126 the process cannot be followed, 127 there is none.\n";

static const struct option long_options[] = {
	{"output", required_argument, NULL, 'o'},
	{"force", no_argument, NULL, 'f'},
	{"duration", required_argument, NULL, 'd'},
	{"interval", required_argument, NULL, 'i'},
	{"malloc", no_argument, NULL, 'm'},
	{"kernel", required_argument, NULL, 'k'},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static int parse_option(struct options *options, int letter)
{
	switch (letter) {
	case 'o':
		options->directory = optarg;
		return optarg[0] != '\0' ? 0 : tool_fail(TOOL_USAGE, COMMAND, "-o: empty name");
	case 'f':
		options->force = true;
		return 0;
	case 'd':
		if (tool_parse_time(optarg, &options->duration_ns) == 0)
			return 0;
		return tool_fail(TOOL_USAGE, COMMAND,
			"--duration: a time such as 500ms, 10s or 2m is needed, not %s", optarg);
	case 'i':
		return tool_parse_interval(COMMAND, optarg, &options->interval_ns);
	case 'm':
		options->calls = true;
		return 0;
	case 'k':
		options->kernel = optarg;
		if (strcmp(optarg, "auto") == 0 || strcmp(optarg, "require") == 0 ||
			strcmp(optarg, "off") == 0)
			return 0;
		return tool_fail(TOOL_USAGE, COMMAND,
			"--kernel: not a value I know: %s (see --help)", optarg);
	case 'q':
		options->quiet = true;
		return 0;
	default:
		return -1;
	}
}

static int parse_pid(struct options *options, const char *text)
{
	char *end;
	long pid = strtol(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || pid <= 0 || pid > INT32_MAX)
		return tool_fail(
			TOOL_USAGE, COMMAND, "the number of a process is needed, not %s", text);
	options->pid = (pid_t)pid;
	return 0;
}

/* 0, an exit code, or -1 for help. */
static int parse(struct options *options, int argc, char **argv)
{
	int letter, rc = 0;

	optind = 0;
	opterr = 0;
	while (rc == 0 && (letter = getopt_long(argc, argv, ":o:qh", long_options, NULL)) != -1) {
		if (letter == ':' || letter == '?')
			return tool_bad_option(COMMAND, letter, argv, long_options);
		rc = parse_option(options, letter);
	}
	if (rc != 0)
		return rc;
	if (optind + 1 != argc)
		return tool_fail(TOOL_USAGE, COMMAND, "one process is needed (see --help)");
	if (options->calls && strcmp(options->kernel, "off") == 0)
		return tool_fail(TOOL_USAGE, COMMAND,
			"--malloc needs the kernel's probes, not --kernel off");
	return parse_pid(options, argv[optind]);
}

/* The signals that end it; a terminal that goes away does so, too. */
static int take_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL || slash[1] == '\0' ? path : slash + 1;
}

/* argv of the joined command, for session.json. The pointers are into `command`. */
static char **split(char *command, size_t length)
{
	char **argv = calloc(length + 2, sizeof(*argv));
	size_t count = 0;

	for (size_t at = 0; argv != NULL && at < length; at += strlen(command + at) + 1)
		argv[count++] = command + at;
	return argv;
}

/* ---- what it says -------------------------------------------------------------------------- */

static void print_memory(const struct follow *follow, int terminal)
{
	char first[32], last[32];

	if (follow->first_rss == 0)
		return;
	dprintf(terminal, "heapledger: RSS %s at the attach, %s at last, %" PRIu64 " page faults\n",
		tool_format_size(first, sizeof(first), follow->first_rss),
		tool_format_size(last, sizeof(last), follow->last_rss),
		follow->faults - follow->faults_before);
}

/* Two lines: calls, and what recording them took of the process's time. */
static void print_calls(const struct follow *follow, int terminal, double seconds)
{
	const struct allocator_account *account = &follow->account;
	const struct allocator_cost *cost = &account->cost;
	uint64_t hits = 0, calls = follow->root->events - follow->root->syscalls;
	const char *file = base_name(follow->target->name);
	double spent = allocator_seconds(cost);
	char lost[48] = "", name[256];

	for (int i = 0; i < EVENT_HITS; i++)
		hits += cost->hits[i];
	if (account->lost > 0)
		snprintf(lost, sizeof(lost), ", %" PRIu64 " records lost", account->lost);
	escape_copy(name, sizeof(name), file, strlen(file));
	dprintf(terminal, "heapledger: %" PRIu64 " allocator calls of %s%s\n", calls, name, lost);
	if (hits > 0)
		dprintf(terminal,
			"heapledger: %" PRIu64
			" probe hits at %.2f us cost it %.2f s, %.1f %% of the time\n",
			hits, spent * 1e6 / (double)hits, spent, spent * 100 / seconds);
}

static void print_summary(const struct follow *follow, int terminal)
{
	const struct collector *collector = &follow->collector;
	const struct processes *all = &collector->processes;
	double seconds = (double)(collector->ended_ns - collector->started_ns) / 1e9;
	char size[32], text[48] = "system calls unknown", name[PATH_MAX];

	escape_copy(name, sizeof(name), collector->directory, strlen(collector->directory));
	if (follow->kernel.recorded)
		snprintf(text, sizeof(text), "%" PRIu64 " system call%s", all->syscalls,
			all->syscalls == 1 ? "" : "s");
	dprintf(terminal, "heapledger: %s of %u process image%s in %.1f s\n", text, all->streams,
		all->streams == 1 ? "" : "s", seconds);
	print_memory(follow, terminal);
	if (follow->target != NULL)
		print_calls(follow, terminal, seconds);
	dprintf(terminal,
		"heapledger: %s in %s\n"
		"%s"
		"heapledger: next: heapledger analyze %s\n",
		tool_format_size(size, sizeof(size), all->bytes), name,
		collector->stopped ? "heapledger: detached, the process runs on\n" : "", name);
}

static void warn(const struct follow *follow)
{
	if (follow->kernel.wanted && !follow->kernel.recorded)
		tool_fail(TOOL_OK, COMMAND, "system calls are missing: %s", follow->kernel.why);
	if (!follow->mapped_known)
		tool_fail(
			TOOL_OK, COMMAND, "its mappings cannot be read: mapped bytes are unknown");
	if (follow->target != NULL && follow->target->operators_missing)
		tool_fail(TOOL_OK, COMMAND,
			"operator new of %s is not recorded: where it returns cannot be told from "
			"its code",
			base_name(follow->target->name));
}

/* ---- the order of things ------------------------------------------------------------------- */

static int run(struct follow *follow, struct manifest *manifest, struct manifest_attach *attach,
	const struct options *options)
{
	struct collector *collector = &follow->collector;
	int rc, live;

	warn(follow);
	if (!options->quiet && isatty(STDERR_FILENO))
		dprintf(STDERR_FILENO, "heapledger: attached to process %d; Ctrl-C ends it\n",
			(int)options->pid);
	live_open_beside(&collector->live, options->quiet);
	follow_run(follow);
	live = live_end(&collector->live);
	if (live >= 0)
		close(live);
	attach->account = attach->calls ? &follow->account : NULL;
	manifest->finished = true;
	rc = manifest_write(manifest);
	if (rc != 0 && !collector->failed)
		tool_fail(
			TOOL_OK, COMMAND, "writing to %s: %s", collector->directory, strerror(-rc));
	if (follow->blind)
		tool_fail(TOOL_OK, COMMAND,
			"its main thread ended, and the probes with it: later calls are not "
			"recorded");
	if (follow->account.lost > 0)
		tool_fail(TOOL_OK, COMMAND, "%" PRIu64 " records of allocator calls were lost",
			follow->account.lost);
	if (!options->quiet && isatty(STDERR_FILENO))
		print_summary(follow, STDERR_FILENO);
	return TOOL_OK;
}

/* Whoever called for root makes the files; the process may be another user's. */
static int open_output(struct collector *collector, const struct options *options, bool *created)
{
	char why[PATH_MAX + 256];

	collector->dirfd =
		output_open(collector->directory, options->force, created, why, sizeof(why));
	if (collector->dirfd >= 0)
		return 0;
	if (options->caller == NULL)
		return tool_fail(TOOL_USAGE, COMMAND, "%s", why);
	return tool_fail(
		TOOL_USAGE, COMMAND, "%s (as %s, who called for root)", why, options->caller);
}

/* All that only root may do is done: what is read from now on is in /proc, and the probe. */
static int settle(const struct follow *follow)
{
	const struct collector *collector = &follow->collector;
	struct privilege_needs needs = {.program = collector->child,
		.directory = collector->dirfd,
		.memory = true,
		.probe = collector->probe != NULL && probe_asks_privilege(collector->probe)};
	int rc;

	privilege_lower();
	rc = privilege_settle(&needs);
	return rc == 0 ? 0 : tool_fail(TOOL_CANNOT_RUN, COMMAND, "privileges: %s", strerror(-rc));
}

static int start(struct follow *follow, struct options *options)
{
	struct collector *collector = &follow->collector;
	struct manifest_attach attach = {.calls = options->calls};
	struct manifest manifest = {.collector = collector,
		.kernel = &follow->kernel,
		.kernel_mode = options->kernel,
		.attach = &attach};
	char why[PATH_MAX + 256];
	bool created;
	int rc;

	if (follow->target != NULL) {
		attach.allocator = follow->target->name;
		attach.operators_missing = follow->target->operators_missing;
	}
	rc = open_output(collector, options, &created);
	if (rc != 0)
		return rc;
	privilege_raise();
	rc = follow_open(follow, why, sizeof(why));
	if (rc != 0)
		tool_fail(rc, COMMAND, "%s", why);
	if (rc == 0 && collector->probe == NULL && strcmp(options->kernel, "require") == 0)
		rc = tool_fail(
			TOOL_NO_EVIDENCE, COMMAND, "no kernel record: %s", follow->kernel.why);
	if (rc == 0)
		rc = settle(follow);
	if (follow->root != NULL)
		manifest.command = split(follow->root->command, follow->root->command_bytes);
	if (rc == 0 && manifest.command == NULL)
		rc = tool_fail(TOOL_CANNOT_RUN, COMMAND, "out of memory");
	if (rc == 0 && (rc = manifest_write(&manifest)) != 0)
		rc = tool_fail(TOOL_USAGE, COMMAND, "writing to %s: %s", collector->directory,
			strerror(-rc));
	if (rc == 0)
		rc = run(follow, &manifest, &attach, options);
	else
		output_remove(collector->directory, collector->dirfd, created);
	free(manifest.command);
	follow_close(follow);
	close(collector->dirfd);
	return rc;
}

static void name_directory(char *directory, size_t bytes, const struct options *options)
{
	char command[HL_COMMAND_BYTES] = "";

	target_command(options->pid, command);
	if (options->directory != NULL)
		snprintf(directory, bytes, "%s", options->directory);
	else
		snprintf(directory, bytes, "heapledger.%.200s.%d",
			command[0] != '\0' ? base_name(command) : "unnamed", (int)options->pid);
}

/* Finds the process, and with --malloc its allocator. It need not be the caller's. */
static int find(struct follow *follow, struct options *options)
{
	static struct target_allocator target;
	char why[2 * PATH_MAX + 256];
	int rc;

	if (privilege_begin(PRIVILEGE_ANY, &options->caller, why, sizeof(why)) != 0)
		return tool_fail(TOOL_USAGE, COMMAND, "%s", why);
	privilege_raise();
	rc = target_check(options->pid, why, sizeof(why));
	if (rc != 0) {
		tool_fail(rc, COMMAND, "%s", why);
	} else if (options->calls) {
		if (target_find_allocator(&target, options->pid, why, sizeof(why)) != 0)
			rc = tool_fail(TOOL_CANNOT_RUN, COMMAND, "--malloc: %s", why);
		follow->target = &target;
	}
	privilege_lower();
	return rc;
}

int cmd_attach(int argc, char **argv)
{
	struct options options = {.kernel = "auto", .interval_ns = INTERVAL_NS};
	struct follow follow = {.collector = {.dirfd = -1, .poll_fd = -1, .mark_fd = -1}};
	char directory[PATH_MAX];
	int rc = parse(&options, argc, argv);

	if (rc < 0) {
		fputs(usage, stdout);
		return TOOL_OK;
	}
	if (rc != 0)
		return rc;
	rc = find(&follow, &options);
	if (rc != 0)
		return rc;
	name_directory(directory, sizeof(directory), &options);
	follow.kernel.wanted = strcmp(options.kernel, "off") != 0;
	follow.collector.directory = directory;
	follow.collector.child = options.pid;
	follow.collector.interval_ns = options.interval_ns;
	follow.collector.duration_ns = options.duration_ns;
	follow.collector.signal_fd = take_signals();
	if (follow.collector.signal_fd < 0)
		return tool_fail(TOOL_CANNOT_RUN, COMMAND, "signals: %s", strerror(errno));
	rc = start(&follow, &options);
	close(follow.collector.signal_fd);
	return rc;
}
