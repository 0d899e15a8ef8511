/* SPDX-License-Identifier: MIT
 *
 * `heapledger doctor`: what works on this machine, tried for real, and what to do about the rest. A
 * table of checks; each prints one line. Exits 0 when programs can be recorded.
 */
#include "doctor.h"

#include "bpf/probe.h"
#include "escape.h"
#include "launch.h"
#include "look.h"
#include "privilege.h"
#include "session.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

void doctor_find(struct finding *finding, enum doctor_state state, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(finding->text, sizeof(finding->text), format, arguments);
	va_end(arguments);
	finding->state = state;
}

/* ---- running something --------------------------------------------------------------------- */

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

int doctor_run(struct child *child, char *const argv[], const char *preload)
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
		doctor_find(finding, DOCTOR_MISSING,
			"libheapledger.so is not found: build or install it, or set "
			"HEAPLEDGER_LIBRARY");
	else if (doctor_run(&child, argv, path) || child.said[0])
		doctor_find(finding, DOCTOR_MISSING, "/bin/true does not run with the library%s%s",
			child.said[0] ? ": " : "", child.said);
	else
		doctor_find(finding, DOCTOR_OK, "can be preloaded (tried with /bin/true)");
}

static void check_shm(struct finding *finding)
{
	struct statvfs fs;
	struct session session;
	char size[32];
	int rc = session_create(&session, POOL_BYTES, HL_ON_FULL_WAIT, 0);

	if (rc) {
		doctor_find(finding, DOCTOR_MISSING,
			"no room for the recording's buffers in " SHM ": %s; mount a tmpfs there",
			strerror(-rc));
		return;
	}
	session_destroy(&session);
	if (statvfs(SHM, &fs)) {
		doctor_find(finding, DOCTOR_LIMITED, SHM ": %s", strerror(errno));
		return;
	}
	uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
	tool_format_size(size, sizeof(size), room);
	if (room < SHM_ENOUGH_BYTES)
		doctor_find(finding, DOCTOR_LIMITED,
			SHM
			" has %s free: programs may have to wait for the recorder; make it larger "
			"(docker run --shm-size=256m; mount -o remount,size=256m " SHM ")",
			size);
	else
		doctor_find(finding, DOCTOR_OK, SHM " has %s free", size);
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
		doctor_find(finding, DOCTOR_LIMITED, "not known: see shared memory");
		return;
	}
	if (session.map->clock == HL_CLOCK_TSC)
		doctor_find(finding, DOCTOR_OK, "time stamp counter, %.0f MHz",
			(double)session.tick_hz / 1e6);
	else
		doctor_find(finding, DOCTOR_LIMITED,
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
	if ((mask >> 38 & 1) && (mask >> 39 & 1))
		return "CAP_BPF and CAP_PERFMON";
	return mask >> 21 & 1 ? "CAP_SYS_ADMIN" : NULL;
}

static const char *caller; /* who called for root; NULL: nobody */

static void check_user(struct finding *finding)
{
	if (caller != NULL)
		doctor_find(finding, DOCTOR_OK,
			"programs are recorded as %s, who called for root; traces are theirs",
			caller);
	else if (geteuid() == 0)
		doctor_find(finding, DOCTOR_OK, "programs are recorded as root");
	else
		doctor_find(finding, DOCTOR_OK, "programs are recorded as the user %u",
			(unsigned)geteuid());
}

static void check_btf(struct finding *finding)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		doctor_find(finding, DOCTOR_LIMITED,
			"the kernel has no BTF: the probe is by classic tracepoints, without "
			"resident memory and exit statuses, and attach has none; a kernel with "
			"CONFIG_DEBUG_INFO_BTF has it");
	else
		doctor_find(finding, DOCTOR_OK, "/sys/kernel/btf/vmlinux");
}

/* Tried first, since it takes privileges, which nothing else does. */
static struct finding probe_finding;

/* The command that would give what is missing. */
static void prescribe(char *why)
{
	char self[PATH_MAX] = "heapledger", *advice = strstr(why, " (");
	struct statvfs fs;
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	bool useless = statvfs("/proc/self/exe", &fs) == 0 && (fs.f_flag & ST_NOSUID) != 0;

	if (length > 0)
		self[length] = '\0';
	if (advice != NULL)
		*advice = '\0';
	doctor_find(&probe_finding, DOCTOR_LIMITED,
		"%s: %s%.300s%s. Without it recording works; verify has only /proc", why,
		useless ? "" : "sudo setcap cap_bpf,cap_perfmon+ep ", useless ? "" : self,
		useless ? "sudo heapledger record" : ", or sudo heapledger record");
}

static void try_probe(void)
{
	const char *with;
	char why[256];
	int rc;

	privilege_raise();
	with = privilege();
	rc = probe_try(why, sizeof(why));
	privilege_lower();
	if (rc && !with && (rc == -EPERM || rc == -EACCES))
		prescribe(why);
	else if (rc)
		doctor_find(&probe_finding, DOCTOR_LIMITED,
			"%s. Recording works; verify has only /proc", why);
	else
		doctor_find(&probe_finding, DOCTOR_OK,
			"sees a system call of our own (by %s), with %s", why,
			with ? with : "what this user has");
}

static void check_probe(struct finding *finding)
{
	*finding = probe_finding;
}

/* Of pages that were just touched, and of others. */
static void check_page_map(struct finding *finding)
{
	const size_t page = 4096, pages = 16, touched = 5;
	char *memory = mmap(
		NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uint64_t)(uintptr_t)memory;
	struct look_range range = {.start = start, .end = start + pages * page};
	struct look look = {.range = &range, .count = 1};
	struct look_resident resident = {0};
	int rc;

	if (memory == MAP_FAILED) {
		doctor_find(finding, DOCTOR_LIMITED, "not known: no memory for a trial");
		return;
	}
	madvise(memory, pages * page, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < touched; i++)
		memory[i * page] = 1;
	rc = look_count_resident(&resident, &look, getpid());
	munmap(memory, pages * page);
	if (rc)
		doctor_find(finding, DOCTOR_LIMITED,
			"/proc/PID/pagemap or smaps_rollup: %s. Without the kernel probe verify "
			"cannot check resident memory",
			strerror(-rc));
	else if (resident.present != touched * page || resident.anonymous < touched * page)
		doctor_find(finding, DOCTOR_LIMITED,
			"pagemap has %llu bytes of a trial as resident, of which %zu were touched, "
			"smaps_rollup %llu of the process",
			(unsigned long long)resident.present, touched * page,
			(unsigned long long)resident.anonymous);
	else
		doctor_find(finding, DOCTOR_OK,
			"pagemap and smaps_rollup tell which pages are resident");
}

static void check_python(struct finding *finding)
{
	char python[] = HEAPLEDGER_PYTHON, option[] = "-c";
	char script[] = "import logging; logging.disable()\n"
			"import matplotlib, numpy, tomllib; print(matplotlib.__version__)";
	char *argv[] = {python, option, script, NULL};
	struct child child;

	if (doctor_run(&child, argv, NULL))
		doctor_find(finding, DOCTOR_LIMITED,
			"report and check need Python 3.11 with matplotlib and numpy: "
			"apt install python3-matplotlib python3-numpy");
	else
		doctor_find(finding, DOCTOR_OK, "%s with matplotlib %s", python, child.said);
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
		doctor_find(
			finding, DOCTOR_LIMITED, "/proc/sys/vm/overcommit_memory cannot be read");
	else if (!strcmp(mode, "2"))
		doctor_find(finding, DOCTOR_LIMITED,
			"mode 2 counts reserved memory: programs with many threads may run out of "
			"it, with "
			"or without heapledger; sysctl vm.overcommit_memory=0");
	else
		doctor_find(finding, DOCTOR_OK, "mode %s: reserved memory is free", mode);
}

static void check_huge_pages(struct finding *finding)
{
	char modes[64], *mode, *end;

	read_line("/sys/kernel/mm/transparent_hugepage/enabled", modes, sizeof(modes));
	mode = strchr(modes, '[');
	end = mode ? strchr(mode, ']') : NULL;
	if (!mode || !end) {
		doctor_find(finding, DOCTOR_OK, "the kernel has none");
		return;
	}
	*end = '\0';
	if (!strcmp(mode + 1, "always"))
		doctor_find(finding, DOCTOR_LIMITED,
			"always: resident memory grows 2 MiB at a time and varies between runs; "
			"for steady "
			"budgets echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
	else
		doctor_find(finding, DOCTOR_OK, "%s", mode + 1);
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
	{"user", check_user, false},
	{"recording", doctor_record, true},
	{"observing", doctor_observe, false},
	{"call stacks", doctor_stacks, false},
	{"symbols", doctor_symbols, false},
	{"clock", check_clock, false},
	{"kernel types", check_btf, false},
	{"kernel probe", check_probe, false},
	{"page map", check_page_map, false},
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
		[DOCTOR_OK] = "ok", [DOCTOR_LIMITED] = "limited", [DOCTOR_MISSING] = "MISSING"};
	bool can_record = true;
	char why[256];

	(void)argv;
	if (argc != 1)
		return tool_fail(TOOL_USAGE, COMMAND, "no arguments are needed");
	if (privilege_begin(PRIVILEGE_OWN, &caller, why, sizeof(why)))
		return tool_fail(TOOL_USAGE, COMMAND, "%s", why);
	try_probe();
	if (privilege_give_up())
		return tool_fail(TOOL_USAGE, COMMAND, "privileges cannot be given up");
	/* Now there is nothing in this process that its user may not see. */
	prctl(PR_SET_DUMPABLE, 1L, 0L, 0L, 0L);
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		struct finding finding;
		char text[2 * sizeof(finding.text)];

		fflush(stdout);
		checks[i].run(&finding);
		printf("%-*s %-*s ", NAME_WIDTH, checks[i].name, WORD_WIDTH, words[finding.state]);
		escape_copy(text, sizeof(text), finding.text, strlen(finding.text));
		print_wrapped(text);
		if (checks[i].needed && finding.state == DOCTOR_MISSING)
			can_record = false;
	}
	doctor_trial_end();
	puts(can_record ? "\nPrograms can be recorded here."
			: "\nPrograms cannot be recorded here until what is MISSING is there.");
	return can_record ? TOOL_OK : TOOL_FINDING;
}
