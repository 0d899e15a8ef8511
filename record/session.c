/* SPDX-License-Identifier: MIT
 *
 * See session.h. The file is sparse: what no process touches costs nothing.
 */
#include "session.h"

#include "heapledger/callstack.h"
#include "heapledger/stack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define DIRECTORY "/dev/shm"
#define PROCESS_COUNT 16384u
#define LEAST_PAGES 16u
#define STACKS_MOST (UINT32_C(1) << 20)
#define MODULES_MOST 4096u /* that wait to be written; with stacks many come at once */
#define MODULES_ALONE 512u
/* Of a program that logs on both cores of two, 48 million calls took 0.8 s with 8 MiB, 0.9 s with
 * 16 to 64 MiB, 1.1 s with 128 MiB and 1.5 s with 512 MiB. */
#define BACKLOG_BYTES (UINT32_C(16) << 20)
#define TICK_PROBE_NS UINT64_C(1000000) /* two pairs of clocks this far apart tell the rate */
/* Allocated ahead: what one thread fills in 10 ms, an idle round; a program that does not wait gets
 * more. In steps, each well below a millisecond. */
#define AHEAD_PAGES 512u
#define AHEAD_DROP_PAGES 2048u
#define STEP_PAGES 256u
#define AHEAD_PROCESSES 2048u
#define STEP_PROCESSES 1024u
#define AHEAD_STACKS 32768u
#define STEP_STACKS 16384u

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS};
static char fatal_path[64];

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t session_monotonic(void)
{
	return nanoseconds(CLOCK_MONOTONIC);
}

uint64_t session_tick(const struct session *session)
{
	unsigned core;

	return session->map->clock == HL_CLOCK_TSC ? __rdtscp(&core) : session_monotonic();
}

static bool file_has_word(const char *path, const char *line_start, const char *word)
{
	char line[8192];
	bool found = false;
	FILE *file = fopen(path, "re");

	if (file == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, line_start, strlen(line_start)) != 0)
			continue;
		for (char *rest, *token = strtok_r(line, " \t\n", &rest); token != NULL && !found;
			token = strtok_r(NULL, " \t\n", &rest))
			found = strcmp(token, word) == 0;
	}
	fclose(file);
	return found;
}

/* The TSC serves where it ticks evenly on all cores, by the processor's word and the kernel's. */
static enum hl_clock choose_clock(void)
{
	static const char *const flags[] = {"constant_tsc", "nonstop_tsc", "rdtscp"};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (!file_has_word("/proc/cpuinfo", "flags", flags[i]))
			return HL_CLOCK_MONOTONIC;
	if (!file_has_word(
		    "/sys/devices/system/clocksource/clocksource0/current_clocksource", "", "tsc"))
		return HL_CLOCK_MONOTONIC;
	return HL_CLOCK_TSC;
}

/* The closest of a few tries. */
void session_read_clocks(const struct session *session, uint64_t *tick, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		uint64_t before = session_tick(session);
		uint64_t now = session_monotonic();
		uint64_t took = session_tick(session) - before;

		if (took < best) {
			best = took;
			*tick = before + took / 2;
			*ns = now;
		}
	}
}

static void start_clock(struct session *session)
{
	session->map->clock = choose_clock();
	session_read_clocks(session, &session->tick, &session->clock_ns);
	session->realtime_ns =
		nanoseconds(CLOCK_REALTIME) - (session_monotonic() - session->clock_ns);
	session->tick_hz = 1000000000;
}

/* Waits for what the work since start_clock left of the time, mostly nothing. */
static void measure_clock(struct session *session)
{
	uint64_t passed = session_monotonic() - session->clock_ns, tick = 0, ns = 0;

	if (session->map->clock == HL_CLOCK_MONOTONIC)
		return;
	if (passed < TICK_PROBE_NS)
		nanosleep(&(struct timespec){.tv_nsec = (long)(TICK_PROBE_NS - passed)}, NULL);
	session_read_clocks(session, &tick, &ns);
	session->tick_hz =
		(uint64_t)((double)(tick - session->tick) * 1e9 / (double)(ns - session->clock_ns));
}

/* Files of collectors that were killed, and whose programs did not notice before they ended. */
static void remove_stale(void)
{
	struct dirent *entry;
	unsigned pid, number;
	DIR *dir = opendir(DIRECTORY);

	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
		if (sscanf(entry->d_name, "heapledger.%u.%8x", &pid, &number) == 2 &&
			kill((pid_t)pid, 0) != 0 && errno == ESRCH)
			unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
}

static void on_fatal(int number)
{
	unlink(fatal_path);
	raise(number); /* SA_RESETHAND: the default action now */
}

static void watch_fatal(const char *path)
{
	struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_RESETHAND | SA_NODEFER};

	snprintf(fatal_path, sizeof(fatal_path), "%s", path);
	for (size_t i = 0; i < sizeof(fatal_signals) / sizeof(fatal_signals[0]); i++)
		sigaction(fatal_signals[i], &action, NULL);
}

static int create_file(struct session *session)
{
	uint32_t number;
	int fd;

	for (int tries = 0; tries < 16; tries++) {
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			return -EIO;
		snprintf(session->path, sizeof(session->path), DIRECTORY "/heapledger.%u.%08x",
			(unsigned)getpid(), number);
		fd = open(session->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd >= 0 || errno != EEXIST)
			return fd >= 0 ? fd : -errno;
	}
	return -EEXIST;
}

/* A page that the file system has no room for would kill the target with SIGBUS. */
static uint64_t fit_pool(uint64_t pool_bytes)
{
	struct statvfs fs;
	uint64_t room;

	if (statvfs(DIRECTORY, &fs) != 0 || fs.f_blocks == 0)
		return pool_bytes;
	room = (uint64_t)fs.f_bavail * fs.f_frsize / 2;
	return pool_bytes < room ? pool_bytes : room;
}

static int back(const struct session *session, uint64_t offset, uint64_t bytes)
{
	int rc;

	do
		rc = fallocate(session->fd, 0, (off_t)offset, (off_t)bytes) != 0 ? -errno : 0;
	while (rc == -EINTR);
	return rc == -EOPNOTSUPP ? 0 : rc; /* no tmpfs: no promise either */
}

/* One step further if less than `ahead` of `each` bytes are there beyond `used`. */
static int back_more(const struct session *session, _Atomic uint32_t *backed, uint32_t used,
	uint32_t ahead, uint32_t step, uint32_t count, uint64_t offset, uint64_t each)
{
	uint32_t have = atomic_load(backed), more = count - have < step ? count - have : step;
	int rc;

	if (more == 0 || have >= (uint64_t)used + ahead)
		return 0;
	rc = back(session, offset + have * each, more * each);
	if (rc == 0)
		atomic_store_explicit(backed, have + more, memory_order_release);
	return rc;
}

static int back_pages(struct session *session, uint32_t ahead)
{
	struct hl_session *map = session->map;

	return back_more(session, &map->backed_pages, session_fresh_pages(session), ahead,
		STEP_PAGES, map->page_count, map->pages_offset, HL_PAGE_BYTES);
}

static int back_processes(struct session *session)
{
	struct hl_session *map = session->map;

	return back_more(session, &map->backed_processes, session->high_slot, AHEAD_PROCESSES,
		STEP_PROCESSES, map->process_count, map->header_bytes, sizeof(struct hl_process));
}

static int back_stacks(struct session *session)
{
	struct hl_session *map = session->map;

	return back_more(session, &map->backed_stacks, atomic_load(&map->stack_count), AHEAD_STACKS,
		STEP_STACKS, map->stack_limit, map->stacks_offset,
		hl_stack_bytes(map->stack_depth));
}

void session_back(struct session *session)
{
	back_pages(
		session, session->map->on_full == HL_ON_FULL_DROP ? AHEAD_DROP_PAGES : AHEAD_PAGES);
	back_processes(session);
	back_stacks(session);
}

/* What everything begins with. */
static int back_start(struct session *session)
{
	const struct hl_session *map = session->map;
	int rc = back(session, map->links_offset, map->page_count * sizeof(uint32_t));

	if (rc == 0)
		rc = back_pages(session, STEP_PAGES);
	if (rc == 0)
		rc = back_processes(session);
	if (rc == 0)
		rc = back(session, map->stack_index_offset, map->session_bytes - map->stack_index_offset);
	return rc == 0 ? back_stacks(session) : rc;
}

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + HL_PAGE_BYTES - 1) / HL_PAGE_BYTES * HL_PAGE_BYTES;
}

static void session_remove(struct session *session, void *map)
{
	unlink(session->path);
	if (map != MAP_FAILED)
		munmap(map, session->bytes);
	close(session->fd);
	session->map = NULL;
}

/* The tables of stacks and modules lie behind the pages. Half of the room is the pool's, half of
 * the rest is theirs. */
static void plan_stacks(struct hl_session *map, unsigned depth)
{
	uint64_t entry_bytes = hl_stack_bytes(depth);
	uint64_t limit = fit_pool(STACKS_MOST * entry_bytes * 2) / 2 / entry_bytes;

	map->stack_depth = depth;
	map->stacks_offset = map->stack_index_offset = map->modules_offset = map->session_bytes;
	map->module_limit = MODULES_ALONE;
	if (depth != 0) {
		map->module_limit = MODULES_MOST;
		map->stack_limit = limit < STACKS_MOST ? (uint32_t)limit : STACKS_MOST;
		map->stack_index_offset =
			round_up(map->stacks_offset + map->stack_limit * entry_bytes);
		map->modules_offset = round_up(
			map->stack_index_offset + (sizeof(uint32_t) << HL_STACK_INDEX_BITS));
	}
	map->session_bytes =
		round_up(map->modules_offset + map->module_limit * sizeof(struct hl_module));
}

int session_create(
	struct session *session, uint64_t pool_bytes, enum hl_on_full on_full, unsigned stack_depth)
{
	struct hl_session plan = {0};
	uint64_t page_count = fit_pool(pool_bytes) / HL_PAGE_BYTES;
	uint64_t table_offset = 4096, links_offset, pages_offset;
	struct hl_session *map;
	int fd, rc = 0;

	if (page_count < LEAST_PAGES)
		return pool_bytes / HL_PAGE_BYTES < LEAST_PAGES ? -EINVAL : -ENOSPC;
	if (page_count > UINT32_MAX - 1)
		page_count = UINT32_MAX - 1;
	links_offset = table_offset + PROCESS_COUNT * sizeof(struct hl_process);
	pages_offset = round_up(links_offset + page_count * sizeof(uint32_t));
	plan.session_bytes = pages_offset + page_count * HL_PAGE_BYTES;
	plan_stacks(&plan, stack_depth);
	session->bytes = plan.session_bytes;
	remove_stale();
	fd = create_file(session);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)session->bytes) != 0)
		rc = -errno;
	map = rc != 0 ? MAP_FAILED
		      : mmap(NULL, session->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rc == 0 && map == MAP_FAILED)
		rc = -errno;
	session->fd = fd;
	if (rc == 0)
		rc = back(session, 0, table_offset);
	if (rc != 0) {
		session_remove(session, map);
		return rc;
	}
	watch_fatal(session->path);
	/* The program maps it by itself, and what else we start must not keep it. */
	madvise(map, session->bytes, MADV_DONTFORK);
	session->map = map;
	session->table = (struct hl_process *)((char *)map + table_offset);
	session->links = (_Atomic uint32_t *)((char *)map + links_offset);
	session->pages = (char *)map + pages_offset;
	*map = (struct hl_session){
		.version = HL_SESSION_VERSION,
		.collector_pid = (uint32_t)getpid(),
		.state = HL_SESSION_OPEN,
		.on_full = on_full,
		.process_count = PROCESS_COUNT,
		.page_count = (uint32_t)page_count,
		.header_bytes = (uint32_t)table_offset,
		.links_offset = links_offset,
		.pages_offset = pages_offset,
		.session_bytes = session->bytes,
		.next_serial = 1,
		.round = 1,
		.backlog_limit = BACKLOG_BYTES / HL_PAGE_BYTES,
		.stack_depth = plan.stack_depth,
		.stack_limit = plan.stack_limit,
		.module_limit = plan.module_limit,
		.stacks_offset = plan.stacks_offset,
		.stack_index_offset = plan.stack_index_offset,
		.modules_offset = plan.modules_offset,
	};
	start_clock(session);
	rc = back_start(session);
	if (rc != 0) {
		session_destroy(session);
		return rc;
	}
	measure_clock(session);
	map->magic = HL_SESSION_MAGIC;
	return 0;
}

void session_destroy(struct session *session)
{
	if (session->map == NULL)
		return;
	atomic_store(&session->map->state, HL_SESSION_CLOSED);
	session_remove(session, session->map);
}

uint32_t session_fresh_pages(const struct session *session)
{
	uint32_t fresh = atomic_load(&session->map->fresh_pages);

	return fresh < session->map->page_count ? fresh : session->map->page_count;
}

void session_free_page(struct session *session, uint32_t number)
{
	atomic_store(&session_page(session, number)->state, HL_PAGE_FREE);
	hl_stack_push(&session->map->free_pages, session->links, number);
}
