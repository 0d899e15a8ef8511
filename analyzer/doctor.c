/* SPDX-License-Identifier: MIT
 *
 * `heapledger doctor`: what works on this machine, tried for real, and what to do about the rest. A
 * table of checks; each prints one line. Exits 0 when programs can be recorded.
 */
#include "bpf/probe.h"
#include "launch.h"
#include "session.h"
#include "tool.h"
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMAND "doctor"
#define COLUMNS 80
#define NAME_WIDTH 13
#define WORD_WIDTH 7
#define INDENT (NAME_WIDTH + 1 + WORD_WIDTH + 1)
#define CLOCK_ROUNDS 20
#define CLOCK_CALLS 100
#define POOL_BYTES (UINT64_C(1) << 20)
#define SHM_ENOUGH_BYTES (UINT64_C(128) << 20)
#define SHM "/dev/shm"

enum state { OK, LIMITED, MISSING };

struct finding {
	enum state state;
	char text[512]; /* what it is, and what to do */
};

static void find(struct finding *finding, enum state state, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void find(struct finding *finding, enum state state, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(finding->text, sizeof(finding->text), format, arguments);
	va_end(arguments);
	finding->state = state;
}

/* ---- running something --------------------------------------------------------------------- */

struct child {
	int status;     /* of waitpid */
	char said[256]; /* the beginning of its stdout and stderr */
};

static void exec_quiet(char *const argv[], const char *preload, int out)
{
	int null = open("/dev/null", O_RDONLY);

	dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	if (preload)
		setenv("LD_PRELOAD", preload, 1);
	execvp(argv[0], argv);
	_exit(TOOL_NOT_FOUND);
}

static void take_output(int fd, struct child *child)
{
	char rest[4096];
	size_t used = 0;
	ssize_t got;

	while ((got = read(fd, rest, sizeof(rest))) > 0 || (got < 0 && errno == EINTR)) {
		size_t room = sizeof(child->said) - 1 - used;
		size_t taken = got > 0 && (size_t)got < room ? (size_t)got : got > 0 ? room : 0;

		memcpy(child->said + used, rest, taken);
		used += taken;
	}
	child->said[used] = '\0';
	child->said[strcspn(child->said, "\n")] = '\0';
}

/* 0 when it ran and exited with 0. */
static int run(struct child *child, char *const argv[], const char *preload)
{
	int ends[2];
	pid_t pid;

	*child = (struct child){.status = -1};
	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid == 0)
		exec_quiet(argv, preload, ends[1]);
	close(ends[1]);
	if (pid > 0) {
		take_output(ends[0], child);
		while (waitpid(pid, &child->status, 0) < 0 && errno == EINTR)
			;
	}
	close(ends[0]);
	return child->status == 0 ? 0 : -ECHILD;
}

/* ---- the checks ---------------------------------------------------------------------------- */

/* ld.so goes on without a library that it cannot load, but says so. */
static void check_library(struct finding *finding)
{
	char path[PATH_MAX], program[] = "/bin/true";
	char *argv[] = {program, NULL};
	struct child child;
	int rc = launch_library(LAUNCH_ALLOCATOR, path, sizeof(path));

	if (rc)
		find(finding, MISSING,
			"libheapledger.so is not found: build or install it, or set "
			"HEAPLEDGER_LIBRARY");
	else if (run(&child, argv, path) || child.said[0])
		find(finding, MISSING, "/bin/true does not run with the library%s%s",
			child.said[0] ? ": " : "", child.said);
	else
		find(finding, OK, "can be preloaded (tried with /bin/true)");
}

static void remove_trace(const char *folder)
{
	char program[] = "rm", option[] = "-rf", end[] = "--", name[PATH_MAX];
	char *argv[] = {program, option, end, name, NULL};
	struct child child;

	snprintf(name, sizeof(name), "%s", folder);
	run(&child, argv, NULL);
}

static void judge_recording(struct finding *finding, const char *path)
{
	struct trace trace;
	uint64_t records = 0;

	if (trace_open(&trace, path))
		find(finding, MISSING, "the trace of a trial cannot be read: %s", trace.error);
	else {
		for (size_t i = 0; i < trace.stream_count; i++)
			records += trace.streams[i].info.records;
		if (records)
			find(finding, OK, "works (a trial gave %llu events)",
				(unsigned long long)records);
		else
			find(finding, MISSING,
				"a trial gave no event: set HEAPLEDGER_LIBRARY to the "
				"libheapledger.so of this version");
	}
	trace_close(&trace);
}

/* The whole way: record something and read it back. The shell allocates; true does not. */
static void check_recording(struct finding *finding)
{
	const char *temporary = getenv("TMPDIR");
	char folder[PATH_MAX - 16], path[PATH_MAX];
	char self[] = "/proc/self/exe", record[] = "record", option[] = "-o", shell[] = "/bin/sh";
	char kernel[] = "--kernel", off[] = "off", end[] = "--", command[] = "-c", script[] = ":";
	char *argv[] = {self, record, option, path, kernel, off, end, shell, command, script, NULL};
	struct child child;

	snprintf(folder, sizeof(folder), "%s/heapledger-doctor-XXXXXX",
		temporary && *temporary ? temporary : "/tmp");
	if (!mkdtemp(folder)) {
		find(finding, MISSING, "%s: %s: set TMPDIR to a folder that can be written", folder,
			strerror(errno));
		return;
	}
	snprintf(path, sizeof(path), "%s/trace", folder);
	if (run(&child, argv, NULL))
		find(finding, MISSING, "a trial failed: %s", child.said);
	else
		judge_recording(finding, path);
	remove_trace(folder);
}

static void check_shm(struct finding *finding)
{
	struct statvfs fs;
	struct session session;
	char size[32];
	int rc = session_create(&session, POOL_BYTES, HL_ON_FULL_WAIT, 0);

	if (rc) {
		find(finding, MISSING,
			"no room for the recording's buffers in " SHM ": %s; mount a tmpfs there",
			strerror(-rc));
		return;
	}
	session_destroy(&session);
	if (statvfs(SHM, &fs)) {
		find(finding, LIMITED, SHM ": %s", strerror(errno));
		return;
	}
	uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
	tool_format_size(size, sizeof(size), room);
	if (room < SHM_ENOUGH_BYTES)
		find(finding, LIMITED,
			SHM
			" has %s free: programs may have to wait for the recorder; make it larger "
			"(docker run --shm-size=256m; mount -o remount,size=256m " SHM ")",
			size);
	else
		find(finding, OK, SHM " has %s free", size);
}

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What reading the time costs where it is asked of the kernel: a function of the vDSO, as in the
 * library, or a system call where there is none. The best of a few rounds, because others use the
 * machine, too. */
static double clock_call_ns(void)
{
	uint64_t best = UINT64_MAX;

	for (unsigned round = 0; round < CLOCK_ROUNDS; round++) {
		uint64_t start = monotonic_ns(), took;

		for (unsigned i = 0; i < CLOCK_CALLS; i++)
			monotonic_ns();
		took = monotonic_ns() - start;
		if (took < best)
			best = took;
	}
	return (double)best / CLOCK_CALLS;
}

static void check_clock(struct finding *finding)
{
	struct session session;

	if (session_create(&session, POOL_BYTES, HL_ON_FULL_WAIT, 0)) {
		find(finding, LIMITED, "not known: see shared memory");
		return;
	}
	if (session.map->clock == HL_CLOCK_TSC)
		find(finding, OK, "time stamp counter, %.0f MHz", (double)session.tick_hz / 1e6);
	else
		find(finding, LIMITED,
			"clock_gettime, %.0f ns each time: the kernel does not trust the time "
			"stamp "
			"counter here; it is read at every 128th event, and for blocks that pass "
			"between threads",
			clock_call_ns());
	session_destroy(&session);
}

/* Bits of CapEff: linux/capability.h. */
static const char *privilege(void)
{
	unsigned long long mask = 0;
	char line[256];
	FILE *file = fopen("/proc/self/status", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &mask) == 1)
			break;
	if (file)
		fclose(file);
	if (mask >> 21 & 1)
		return "CAP_SYS_ADMIN";
	if ((mask >> 38 & 1) && (mask >> 39 & 1))
		return "CAP_BPF and CAP_PERFMON";
	return NULL;
}

static void check_btf(struct finding *finding)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		find(finding, LIMITED,
			"the kernel has no BTF: verify has only /proc; a kernel with "
			"CONFIG_DEBUG_INFO_BTF has it");
	else
		find(finding, OK, "/sys/kernel/btf/vmlinux");
}

static void check_probe(struct finding *finding)
{
	const char *with = privilege();
	char why[256];

	if (probe_try(why, sizeof(why)))
		find(finding, LIMITED, "%s. Recording works; verify has only /proc", why);
	else
		find(finding, OK, "loads and attaches (%s), with %s", why,
			with ? with : "what this user has");
}

static void check_python(struct finding *finding)
{
	char python[] = HEAPLEDGER_PYTHON, option[] = "-c";
	char script[] = "import logging; logging.disable()\n"
			"import matplotlib, numpy, tomllib; print(matplotlib.__version__)";
	char *argv[] = {python, option, script, NULL};
	struct child child;

	if (run(&child, argv, NULL))
		find(finding, LIMITED,
			"report and check need Python 3.11 with matplotlib and numpy: "
			"apt install python3-matplotlib python3-numpy");
	else
		find(finding, OK, "%s with matplotlib %s", python, child.said);
}

static void read_line(const char *path, char *line, size_t bytes)
{
	FILE *file = fopen(path, "re");

	line[0] = '\0';
	if (file) {
		if (!fgets(line, (int)bytes, file))
			line[0] = '\0';
		fclose(file);
	}
	line[strcspn(line, "\n")] = '\0';
}

static void check_overcommit(struct finding *finding)
{
	char mode[16];

	read_line("/proc/sys/vm/overcommit_memory", mode, sizeof(mode));
	if (!mode[0])
		find(finding, LIMITED, "/proc/sys/vm/overcommit_memory cannot be read");
	else if (!strcmp(mode, "2"))
		find(finding, LIMITED,
			"mode 2 counts reserved memory: programs with many threads may run out of "
			"it, with "
			"or without heapledger; sysctl vm.overcommit_memory=0");
	else
		find(finding, OK, "mode %s: reserved memory is free", mode);
}

static void check_huge_pages(struct finding *finding)
{
	char modes[64], *mode, *end;

	read_line("/sys/kernel/mm/transparent_hugepage/enabled", modes, sizeof(modes));
	mode = strchr(modes, '[');
	end = mode ? strchr(mode, ']') : NULL;
	if (!mode || !end) {
		find(finding, OK, "the kernel has none");
		return;
	}
	*end = '\0';
	if (!strcmp(mode + 1, "always"))
		find(finding, LIMITED,
			"always: resident memory grows 2 MiB at a time and varies between runs; "
			"for steady "
			"budgets echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
	else
		find(finding, OK, "%s", mode + 1);
}

/* ---- the table ------------------------------------------------------------------------------ */

struct check {
	const char *name;
	void (*run)(struct finding *finding);
	bool needed; /* to record at all */
};

static const struct check checks[] = {
	{"library", check_library, true},
	{"shared memory", check_shm, true},
	{"recording", check_recording, true},
	{"clock", check_clock, false},
	{"kernel types", check_btf, false},
	{"kernel probe", check_probe, false},
	{"reports", check_python, false},
	{"overcommit", check_overcommit, false},
	{"huge pages", check_huge_pages, false},
};

/* Words from `column` on, continued below each other within COLUMNS. */
static void print_wrapped(const char *text)
{
	size_t column = INDENT;

	for (const char *end; *text; text = end + (*end == ' ')) {
		end = strchrnul(text, ' ');
		if (end - text > COLUMNS - INDENT) /* a long path */
			end = text + (COLUMNS - INDENT);
		size_t length = (size_t)(end - text);

		if (column > INDENT && column + 1 + length > COLUMNS) {
			printf("\n%*s", INDENT, "");
			column = INDENT;
		} else if (column > INDENT) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)length, text);
		column += length;
	}
	putchar('\n');
}

int cmd_doctor(int argc, char **argv)
{
	static const char *const words[] = {
		[OK] = "ok", [LIMITED] = "limited", [MISSING] = "MISSING"};
	bool can_record = true;

	(void)argv;
	if (argc != 1)
		return tool_fail(TOOL_USAGE, COMMAND, "no arguments are needed");
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		struct finding finding;

		fflush(stdout);
		checks[i].run(&finding);
		printf("%-*s %-*s ", NAME_WIDTH, checks[i].name, WORD_WIDTH, words[finding.state]);
		print_wrapped(finding.text);
		if (checks[i].needed && finding.state == MISSING)
			can_record = false;
	}
	puts(can_record ? "\nPrograms can be recorded here."
			: "\nPrograms cannot be recorded here until what is MISSING is there.");
	return can_record ? TOOL_OK : TOOL_FINDING;
}
