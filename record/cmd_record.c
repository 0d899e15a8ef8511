/* SPDX-License-Identifier: MIT
 *
 * `heapledger record`: options, the order of things, the exit status. The work is in session.c
 * (shared memory), launch.c (the program), collector.c (the loop) and manifest.c (session.json).
 */
#include "cgroup.h"
#include "collector.h"
#include "escape.h"
#include "images.h"
#include "kernel.h"
#include "launch.h"
#include "manifest.h"
#include "output.h"
#include "privilege.h"
#include "session.h"
#include "tool.h"
#include "tuning.h"

#include "heapledger/callstack.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFER_BYTES (UINT64_C(512) << 20)
#define BUFFER_SHARE 8 /* of what the control group allows, the default is one part in this at most */
#define BUFFER_LEAST_BYTES (UINT64_C(1) << 20)
#define BUFFER_MOST_BYTES (UINT64_C(64) << 30)
#define RING_LEAST_BYTES (UINT64_C(1) << 20)
#define RING_MOST_BYTES (UINT64_C(1) << 44)
#define INTERVAL_NS UINT64_C(10000000)
#define RESIDENCY_NS UINT64_C(100000000)
#define RESIDENCY_LEAST_NS UINT64_C(1000000)

struct options {
	const char *directory;
	const char *on_full;
	const char *kernel;
	uint64_t buffer_bytes;
	uint64_t interval_ns;
	uint64_t residency_ns;
	uint64_t start_after_ns;
	uint64_t duration_ns;
	uint64_t ring_bytes;
	unsigned stack_depth;
	int mark_signal;
	bool force;
	bool quiet;
	bool observe;
	bool faults;
	const char *heap_option;  /* one that is about our allocator */
	struct settings settings; /* of the program's heap */
	const char *given_by[SETTINGS_COUNT]; /* each of them that is set */
	char **command;
	const char *caller; /* of sudo, who we are now; NULL: nobody */
};

static const char usage[] =
	"usage: heapledger record [OPTION...] [--] CMD [ARGUMENT...]\n"
	"\n"
	"Runs CMD and records every allocator call and the system calls beneath it.\n"
	"\n"
	"  -o, --output DIR       the trace (default: heapledger.<program>.<pid>)\n"
	"      --force            replace DIR if it holds a trace\n"
	"      --on-full HOW      all buffers in use: wait (default), or drop and count\n"
	"      --buffer SIZE      of all buffers at most (default: 512 MiB, as needed)\n"
	"      --interval MS      between samples of resident memory (default: 10)\n"
	"      --residency TIME   between snapshots of resident pages (100ms), or off\n"
	"      --stacks N         call stacks of up to N frames, 64 at most (default: 0)\n"
	"      --kernel MODE      the kernel's own record: auto (default), require, off\n"
	"      --faults           its record of each page fault, too: implies require\n"
	"      --policy P         hybrid (as in glibc, default), brk or mmap alone\n"
	"      --set NAME=VALUE   a tunable, as in --set mmap_threshold=1M; repeatable\n"
	"      --observe          CMD keeps its own allocator, whose calls are recorded\n"
	"      --start-after TIME begin so long after the start, with the heap as it is\n"
	"      --duration TIME    end after 500ms, 10s, 2m; CMD runs on unrecorded\n"
	"      --ring SIZE        keep the newest records only, and the heap before them\n"
	"      --mark-signal SIG  USR1 or USR2 begins a phase and is not passed on\n"
	"  -q, --quiet            no live line and no summary\n"
	"\n"
	"Exits as CMD; 2 wrong usage, 4 no kernel record, 126 unrecordable, 127 no CMD.\n";

static const struct option long_options[] = {
	{"output", required_argument, NULL, 'o'},
	{"force", no_argument, NULL, 'f'},
	{"on-full", required_argument, NULL, 'F'},
	{"buffer", required_argument, NULL, 'b'},
	{"interval", required_argument, NULL, 'i'},
	{"residency", required_argument, NULL, 'R'},
	{"stacks", required_argument, NULL, 'S'},
	{"kernel", required_argument, NULL, 'k'},
	{"faults", no_argument, NULL, 'T'},
	{"policy", required_argument, NULL, 'p'},
	{"set", required_argument, NULL, 's'},
	{"observe", no_argument, NULL, 'O'},
	{"start-after", required_argument, NULL, 'a'},
	{"duration", required_argument, NULL, 'd'},
	{"ring", required_argument, NULL, 'r'},
	{"mark-signal", required_argument, NULL, 'm'},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static int one_of(const char *option, const char *value, const char *const *words, const char *list)
{
	for (; *words != NULL; words++)
		if (strcmp(value, *words) == 0)
			return 0;
	return tool_fail(TOOL_USAGE, "record", "%s: %s is needed, not %s", option, list, value);
}

static int parse_buffer(struct options *options, const char *text)
{
	if (tool_parse_size(text, &options->buffer_bytes) != 0 ||
		options->buffer_bytes < BUFFER_LEAST_BYTES ||
		options->buffer_bytes > BUFFER_MOST_BYTES)
		return tool_fail(TOOL_USAGE, "record",
			"--buffer: a size from 1 MiB to 64 GiB is needed, not %s", text);
	return 0;
}

static int parse_ring(struct options *options, const char *text)
{
	if (tool_parse_size(text, &options->ring_bytes) != 0 ||
		options->ring_bytes < RING_LEAST_BYTES || options->ring_bytes > RING_MOST_BYTES)
		return tool_fail(TOOL_USAGE, "record",
			"--ring: a size from 1 MiB to 16 TiB is needed, not %s", text);
	return 0;
}

static int parse_stacks(struct options *options, const char *text)
{
	char *end;
	unsigned long depth = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || depth > HL_STACK_MOST_FRAMES)
		return tool_fail(TOOL_USAGE, "record",
			"--stacks: a number of frames from 0 to %d is needed, not %s",
			HL_STACK_MOST_FRAMES, text);
	options->stack_depth = (unsigned)depth;
	return 0;
}

static int parse_time(const char *option, const char *text, uint64_t *ns)
{
	if (tool_parse_time(text, ns) != 0)
		return tool_fail(TOOL_USAGE, "record",
			"%s: a time such as 500ms, 10s or 2m is needed, not %s", option, text);
	return 0;
}

static int parse_residency(struct options *options, const char *text)
{
	options->residency_ns = 0;
	if (strcmp(text, "off") == 0)
		return 0;
	if (tool_parse_time(text, &options->residency_ns) != 0 ||
		options->residency_ns < RESIDENCY_LEAST_NS)
		return tool_fail(TOOL_USAGE, "record",
			"--residency: a time of 1ms or more is needed, or off, not %s", text);
	return 0;
}

static int parse_signal(struct options *options, const char *text)
{
	if (strncmp(text, "SIG", 3) == 0)
		text += 3;
	if (strcmp(text, "USR1") != 0 && strcmp(text, "USR2") != 0)
		return tool_fail(TOOL_USAGE, "record",
			"--mark-signal: USR1 or USR2 is needed, not %s", text);
	options->mark_signal = text[3] == '1' ? SIGUSR1 : SIGUSR2;
	return 0;
}

static int parse_option(struct options *options, int letter)
{
	static const char *const full[] = {"wait", "drop", NULL};
	static const char *const modes[] = {"auto", "require", "off", NULL};

	switch (letter) {
	case 'o':
		options->directory = optarg;
		return optarg[0] != '\0' ? 0 : tool_fail(TOOL_USAGE, "record", "-o: empty name");
	case 'f':
		options->force = true;
		return 0;
	case 'F':
		options->on_full = optarg;
		return one_of("--on-full", optarg, full, "wait or drop");
	case 'b':
		return parse_buffer(options, optarg);
	case 'i':
		return tool_parse_interval("record", optarg, &options->interval_ns);
	case 'R':
		return parse_residency(options, optarg);
	case 'S':
		return parse_stacks(options, optarg);
	case 'k':
		options->kernel = optarg;
		return one_of("--kernel", optarg, modes, "auto, require or off");
	case 'T':
		options->faults = true;
		return 0;
	case 'p':
		options->heap_option = "--policy";
		return tuning_policy(optarg);
	case 's':
		options->heap_option = "--set";
		return tuning_set(optarg);
	case 'O':
		options->observe = true;
		return 0;
	case 'a':
		return parse_time("--start-after", optarg, &options->start_after_ns);
	case 'd':
		return parse_time("--duration", optarg, &options->duration_ns);
	case 'r':
		return parse_ring(options, optarg);
	case 'm':
		return parse_signal(options, optarg);
	case 'q':
		options->quiet = true;
		return 0;
	default:
		return -1;
	}
}

/* 0, an exit code, or -1 for help. */
static int parse(struct options *options, int argc, char **argv)
{
	int letter, rc = 0;

	optind = 0;
	opterr = 0;
	while (rc == 0 && (letter = getopt_long(argc, argv, "+:o:qh", long_options, NULL)) != -1) {
		if (letter == ':' || letter == '?')
			return tool_bad_option("record", letter, argv, long_options);
		rc = parse_option(options, letter);
	}
	if (rc != 0)
		return rc;
	if (options->observe && options->heap_option != NULL)
		return tool_fail(TOOL_USAGE, "record",
			"%s is about heapledger's allocator, which --observe leaves out",
			options->heap_option);
	if (optind >= argc)
		return tool_fail(TOOL_USAGE, "record", "no program to record (see --help)");
	options->command = argv + optind;
	return 0;
}

static int find_program(
	struct launch *launch, const struct options *options, char *library, size_t library_bytes)
{
	char why[PATH_MAX + 256];
	int rc = launch_find(launch, options->command[0], why, sizeof(why));

	if (rc != 0)
		return tool_fail((enum tool_exit)rc, "record", "%s", why);
	const char *name = options->observe ? LAUNCH_OBSERVER : LAUNCH_ALLOCATOR;
	if (launch_library(name, library, library_bytes) != 0)
		return tool_fail(TOOL_CANNOT_RUN, "record",
			"%s was not found; HEAPLEDGER_LIBRARY can name it", name);
	/* The loader takes both as separators. */
	if (strpbrk(library, " :") != NULL)
		return tool_fail(TOOL_CANNOT_RUN, "record",
			"%s: LD_PRELOAD cannot name a path with a space or a colon; move it",
			library);
	return 0;
}

/* What the program's death by a signal looks like to our parent. */
static int leave_like(int status)
{
	struct rlimit none = {0};
	sigset_t set;
	int number;

	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status);
	number = WTERMSIG(status);
	setrlimit(RLIMIT_CORE, &none);
	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(number);
	return 128 + number;
}

static void print_summary(
	const struct collector *collector, const struct kernel *kernel, int terminal)
{
	const struct processes *all = &collector->processes;
	char size[32], lost[40] = "", each[40] = "", older[100] = "", name[PATH_MAX], unrecorded[512];
	uint64_t bytes = all->bytes + stacks_file_bytes(all->stacks);

	escape_copy(name, sizeof(name), collector->directory, strlen(collector->directory));
	if (all->lost > 0)
		snprintf(lost, sizeof(lost), ", %" PRIu64 " lost", all->lost);
	if (all->events > 0 && !collector->failed && all->overwritten == 0)
		snprintf(each, sizeof(each), ", %.2f bytes an event",
			(double)bytes / (double)all->events);
	if (all->overwritten > 0)
		snprintf(older, sizeof(older),
			"heapledger: of %" PRIu64 " older events only the heap that they left is kept\n",
			all->overwritten);
	if (images_tell_unrecorded(unrecorded, sizeof(unrecorded), kernel, all))
		dprintf(terminal, "heapledger: note: %s\n", unrecorded);
	dprintf(terminal,
		"heapledger: %" PRIu64 " events%s of %u process image%s in %.1f s\n"
		"%s"
		"heapledger: %s in %s%s\n"
		"%s"
		"heapledger: next: heapledger analyze %s\n",
		all->events, lost, all->streams, all->streams == 1 ? "" : "s",
		(double)(collector->ended_ns - collector->started_ns) / 1e9, older,
		tool_format_size(size, sizeof(size), bytes), name, each,
		collector->stopped ? "heapledger: the recording has ended, the program runs on\n"
				   : "",
		name);
}

/* `live` is the terminal that the live line was for, or -1. */
static void summarize(const struct collector *collector, const struct kernel *kernel,
	const struct options *options, int live)
{
	const struct processes *all = &collector->processes;
	int terminal = isatty(STDERR_FILENO) ? STDERR_FILENO : live;
	char elsewhere[512];

	if (all->not_compacted != 0)
		tool_fail(TOOL_OK, "record",
			"%s still holds what came before the recording began: %s",
			collector->directory, strerror(-all->not_compacted));
	if (all->begin_tick == UINT64_MAX)
		tool_fail(TOOL_OK, "record",
			"nothing was recorded: the program ended before --start-after was over");
	if (options->observe && kernel->wanted && !kernel->recorded)
		tool_fail(TOOL_OK, "record", "system calls are missing: %s", kernel->why);
	if (all->found == 0)
		tool_fail(TOOL_OK, "record", "nothing was recorded: the library was not loaded");
	else if (all->lost > 0)
		tool_fail(TOOL_OK, "record", "%" PRIu64 " events were lost", all->lost);
	if (images_tell_elsewhere(elsewhere, sizeof(elsewhere), all))
		tool_fail(TOOL_OK, "record", "%s", elsewhere);
	if (!options->quiet && terminal >= 0 && all->found > 0)
		print_summary(collector, kernel, terminal);
}

/* The program runs from here on, whatever becomes of the recording. */
static int run(struct collector *collector, struct manifest *manifest, struct kernel *kernel,
	const struct options *options)
{
	int rc, live;

	live_open(&collector->live, options->quiet);
	collector_run(collector);
	live = live_end(&collector->live);
	kernel_close(kernel, collector->probe);
	manifest->finished = true;
	rc = manifest_write(manifest);
	if (collector->stopped) {
		summarize(collector, kernel, options, live);
		collector_wait(collector);
		rc = manifest_write(manifest);
	}
	if (rc != 0 && !collector->failed)
		tool_fail(TOOL_OK, "record", "writing to %s: %s", collector->directory,
			strerror(-rc));
	if (!collector->stopped)
		summarize(collector, kernel, options, live);
	if (live >= 0)
		close(live);
	return collector->child_status;
}

/* From then on we have no privilege that the recording can do without. */
static int open_kernel(
	struct kernel *kernel, struct collector *collector, const struct options *options)
{
	struct privilege_needs needs = {.program = collector->child, .directory = collector->dirfd};
	int rc;

	kernel->wanted = strcmp(options->kernel, "off") != 0;
	kernel->with_faults = options->faults;
	collector->probe = kernel_open(kernel, collector->dirfd, collector->child);
	collector->session.map->time_calls = options->observe && collector->probe != NULL;
	if (collector->probe == NULL && strcmp(options->kernel, "require") == 0)
		return tool_fail(TOOL_NO_EVIDENCE, "record", "no kernel record: %s", kernel->why);
	privilege_lower();
	needs.memory = collector->probe == NULL || collector->residency_ns != 0;
	needs.probe = collector->probe != NULL && probe_asks_privilege(collector->probe);
	rc = privilege_settle(&needs);
	return rc == 0 ? 0
		       : tool_fail(TOOL_CANNOT_RUN, "record", "privileges: %s", strerror(-rc));
}

/* With the child forked and waiting: output, probe, go. Returns an exit code, or -1 when the
 * program ran, and then its wait status in *status. */
static int start(struct launch *launch, struct collector *collector, const struct options *options,
	char *directory, int *status)
{
	struct kernel kernel = {0};
	struct manifest manifest = {
		.collector = collector,
		.kernel = &kernel,
		.command = options->command,
		.settings = options->observe ? NULL : &options->settings,
		.given_by = options->observe ? NULL : options->given_by,
		.on_full = options->on_full,
		.kernel_mode = options->kernel,
		.buffer_bytes = options->buffer_bytes,
	};
	char why[PATH_MAX + 256];
	bool created;
	int rc;

	collector->dirfd = output_open(directory, options->force, &created, why, sizeof(why));
	if (collector->dirfd < 0) {
		launch_cancel(launch);
		if (options->caller == NULL)
			return tool_fail(TOOL_USAGE, "record", "%s", why);
		return tool_fail(TOOL_USAGE, "record", "%s (as %s, who called for root)", why,
			options->caller);
	}
	collector->child = launch->pid;
	collector->directory = directory;
	rc = open_kernel(&kernel, collector, options); /* before there are other threads */
	if (rc == 0 && (rc = collector_open(collector)) != 0)
		rc = tool_fail(TOOL_CANNOT_RUN, "record", "%s", strerror(-rc));
	if (rc == 0 && (rc = manifest_write(&manifest)) != 0)
		rc = tool_fail(TOOL_USAGE, "record", "writing to %s: %s", directory, strerror(-rc));
	if (rc == 0)
		collector_open_marks(collector);
	if (rc != 0) {
		launch_cancel(launch);
	} else if ((rc = launch_go(launch)) != 0) {
		rc = tool_fail(rc == -ENOENT ? TOOL_NOT_FOUND : TOOL_CANNOT_RUN, "record", "%s: %s",
			options->command[0], strerror(-rc));
	} else {
		*status = run(collector, &manifest, &kernel, options);
		rc = -1;
	}
	if (rc > 0) {
		kernel_close(&kernel, collector->probe);
		output_remove(directory, collector->dirfd, created);
	}
	kernel_free(&kernel);
	collector_close(collector);
	close(collector->dirfd);
	return rc;
}

/* The rest is done as the user who called sudo, from looking for the program on. */
static int begin(struct options *options)
{
	char why[256];

	if (privilege_begin(PRIVILEGE_OWN, &options->caller, why, sizeof(why)) != 0)
		return tool_fail(TOOL_USAGE, "record", "%s", why);
	if (options->caller != NULL && !options->quiet && isatty(STDERR_FILENO))
		tool_fail(TOOL_OK, "record", "%s runs as %s, who called for root",
			options->command[0], options->caller);
	return 0;
}

/* The kernel's record is of the whole run: of a part, `verify` would find the rest missing. */
static int settle_kernel(struct options *options)
{
	if (options->faults && strcmp(options->kernel, "off") == 0)
		return tool_fail(TOOL_USAGE, "record",
			"--faults is part of the kernel's record, which --kernel off leaves out");
	if (options->faults)
		options->kernel = "require";
	if (options->duration_ns == 0 && options->start_after_ns == 0 && options->ring_bytes == 0)
		return 0;
	if (strcmp(options->kernel, "require") == 0)
		return tool_fail(TOOL_USAGE, "record",
			"%s: the kernel's record is of whole runs only, not with "
			"--duration, --start-after or --ring",
			options->faults ? "--faults" : "--kernel require");
	options->kernel = "off";
	return 0;
}

/* In a container with little memory the buffers must leave it to the program. */
static uint64_t default_buffer(void)
{
	uint64_t bytes = cgroup_memory_limit() / BUFFER_SHARE;

	if (bytes > BUFFER_BYTES)
		return BUFFER_BYTES;
	return bytes < BUFFER_LEAST_BYTES ? BUFFER_LEAST_BYTES : bytes;
}

int cmd_record(int argc, char **argv)
{
	struct options options = {.on_full = "wait",
		.kernel = "auto",
		.buffer_bytes = default_buffer(),
		.interval_ns = INTERVAL_NS,
		.residency_ns = RESIDENCY_NS};
	struct collector collector = {.dirfd = -1, .signal_fd = -1, .poll_fd = -1, .mark_fd = -1};
	struct launch launch = {0};
	char library[PATH_MAX], directory[PATH_MAX];
	int status = 0, rc = parse(&options, argc, argv);

	if (rc < 0) {
		fputs(usage, stdout);
		return TOOL_OK;
	}
	if (rc == 0)
		rc = begin(&options);
	if (rc == 0)
		rc = find_program(&launch, &options, library, sizeof(library));
	if (rc == 0 && options.ring_bytes != 0 && options.start_after_ns != 0)
		rc = tool_fail(TOOL_USAGE, "record",
			"--ring keeps what was last, so --start-after has no meaning with it");
	if (rc == 0)
		rc = settle_kernel(&options);
	if (rc != 0)
		return rc;
	if (!options.observe)
		tuning_read(&options.settings, options.given_by);
	collector.interval_ns = options.interval_ns;
	collector.residency_ns = options.residency_ns;
	collector.start_after_ns = options.start_after_ns;
	collector.duration_ns = options.duration_ns;
	collector.ring_bytes = options.ring_bytes;
	collector.mark_signal = options.mark_signal;
	/* First, so that no signal finds shared memory that nobody would remove. */
	collector.signal_fd = launch_take_signals(&launch);
	if (collector.signal_fd < 0)
		return tool_fail(
			TOOL_CANNOT_RUN, "record", "signals: %s", strerror(-collector.signal_fd));
	rc = session_create(&collector.session, options.buffer_bytes,
		strcmp(options.on_full, "drop") == 0 ? HL_ON_FULL_DROP : HL_ON_FULL_WAIT,
		options.stack_depth);
	if (rc != 0)
		return tool_fail(
			TOOL_CANNOT_RUN, "record", "shared memory in /dev/shm: %s", strerror(-rc));
	rc = launch_fork(&launch, options.command, collector.session.path, library);
	if (rc != 0) {
		rc = tool_fail(
			TOOL_CANNOT_RUN, "record", "starting the program: %s", strerror(-rc));
	} else {
		if (options.directory != NULL)
			snprintf(directory, sizeof(directory), "%s", options.directory);
		else
			snprintf(directory, sizeof(directory), "heapledger.%.200s.%d",
				tool_base_name(options.command[0]), (int)launch.pid);
		rc = start(&launch, &collector, &options, directory, &status);
	}
	session_destroy(&collector.session);
	return rc < 0 ? leave_like(status) : rc;
}
