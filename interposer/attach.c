/* SPDX-License-Identifier: MIT
 *
 * See attach.h. Runs inside the recorded program, from ld.so's first malloc on, where no
 * constructor has run and environ is still NULL. When anything is missing (no HEAPLEDGER_SESSION,
 * another version, a full table) the program runs on untraced and nothing is said. Without a
 * session but with HEAPLEDGER_OUT the process records itself (alone.h).
 */
#include "attach.h"
#include "elsewhere.h"

#include "heapledger/settings.h"
#include "heapledger/stack.h"

#include "log.h"
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/stat.h>

#define STALE_TAKES 64u          /* pages taken without a beat before the collector is looked at */
#define WAIT_FIRST_NS 20000u     /* a wait for a page: short at first ... */
#define WAIT_LONGEST_NS 1000000u /* ... and never longer than the collector's own round */
#define WAIT_BEATLESS_NS UINT64_C(1000000000)
#define WAIT_BACKLOG_NS UINT64_C(200000000) /* for the collector to catch up: then fresh pages */
#define WAIT_STARVED_NS UINT64_C(5000000000)
#define STATUS_BYTES 4096
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define RESERVE_PAGES 64
#define HOLD_SETTLE_NS 200000      /* for calls under way in other threads to end */
#define HOLD_PAUSE_NS 50000        /* a thread that is held looks again so often ... */
#define HOLD_LONGEST_NS 100000000u /* ... and so long */

extern void *__libc_stack_end;
extern char **environ;

struct attachment attached;

static const uint32_t always = 1;
static uint32_t never;
const uint32_t *attach_token = &never;
const uint32_t *attach_token_real = &never;
static const _Atomic uint32_t no_round = 1;
static struct hl_session no_session = {.stamped = 1}; /* of a process that records itself */
const _Atomic uint32_t *attach_round = &no_round;

/* Kept here because a forked child has to name its command again, and its parent's slot in the
 * table may be another process's by then. */
static char command[HL_COMMAND_BYTES];
static char session_path[128];
static char program[HL_MODULE_PATH_BYTES];
static enum hl_policy policy;
static uint32_t *token_page; /* wiped by the kernel in every copy of the process */
static uint32_t token_first = 1; /* in a copy by fork none that a call under way has seen */
static struct {
	uint64_t start;
	uint64_t end;
} early_ns[ATTACH_CALLS]; /* of the first calls, by the other clock */
static _Atomic uint32_t attaching;
static _Atomic bool held;
static _Atomic uint64_t beat_seen;
static _Atomic uint32_t stale_takes;

int64_t attach_call(struct hl_syscall_record *record, enum hl_kind kind, long number, uint64_t a,
	uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	uint64_t start = attach_tick();
	int64_t result = attach_raw(number, a, b, c, d, e, f);
	bool memory = kind != HL_KIND_other;

	*record = (struct hl_syscall_record){
		.tick = start,
		.kind_addr = hl_kind_addr(kind, memory && kind != HL_KIND_mmap ? a : 0),
		.length = memory ? b : 0,
		.argument = memory ? c : 0,
		.result = result,
		.duration = attach_tick() - start,
		.cause = hl_cause_pack(0, HL_REASON_recorder, HL_REGION_recorder, 0),
	};
	return result;
}

int64_t attach_early(enum hl_kind kind, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
	uint64_t e, uint64_t f)
{
	struct hl_syscall_record spare;
	uint32_t count = attached.call_count;
	int64_t result;

	if (count >= ATTACH_CALLS)
		return attach_call(&spare, kind, number, a, b, c, d, e, f);
	attached.call_count = count + 1;
	if (attached.clock_known)
		return attach_call(&attached.calls[count], kind, number, a, b, c, d, e, f);
	early_ns[count].start = attach_monotonic();
	result = attach_call(&attached.calls[count], kind, number, a, b, c, d, e, f);
	early_ns[count].end = attach_monotonic();
	return result;
}

static uint64_t address_of(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

static bool starts_with(const char *text, const char *prefix)
{
	while (*prefix != '\0')
		if (*text++ != *prefix++)
			return false;
	return true;
}

static size_t copy_text(char *to, size_t length, const char *from)
{
	size_t n = 0;

	while (n + 1 < length && from[n] != '\0') {
		to[n] = from[n];
		n++;
	}
	to[n] = '\0';
	return n;
}

/* The stack as the kernel made it: argc, argv, NULL, envp. Valid before libc knows of either. */
static char **find_arguments(char ***envp)
{
	uintptr_t *stack = __libc_stack_end;
	size_t count;

	*envp = environ;
	if (stack == NULL || stack[0] == 0 || stack[0] > INT_MAX)
		return NULL;
	count = stack[0];
	if (stack[1 + count] != 0)
		return NULL;
	*envp = (char **)&stack[2 + count];
	return (char **)&stack[1];
}

static void keep_command(char *const *argv)
{
	size_t used = 0;

	for (; argv != NULL && *argv != NULL && used + 1 < sizeof(command); argv++)
		used += copy_text(command + used, sizeof(command) - used, *argv) + 1;
}

static bool find_session(char *const *envp)
{
	static const char name[] = HL_SESSION_ENV "=";

	for (; envp != NULL && *envp != NULL; envp++) {
		if (starts_with(*envp, name)) {
			const char *path = *envp + sizeof(name) - 1;

			return path[copy_text(session_path, sizeof(session_path), path)] == '\0' &&
			       session_path[0] == '/';
		}
	}
	return false;
}

static bool sound(const struct hl_session *session)
{
	return session->magic == HL_SESSION_MAGIC && session->version == HL_SESSION_VERSION &&
	       session->state == HL_SESSION_OPEN && session->header_bytes >= sizeof(*session) &&
	       session->process_count > 0 && session->page_count > 0;
}

static void count_unregistered(int64_t fd)
{
	int64_t map = attach_early(HL_KIND_mmap, SYS_mmap, 0, sizeof(struct hl_session),
		PROT_READ | PROT_WRITE, MAP_SHARED, (uint64_t)fd, 0);

	if (map < 0 && map > -4096)
		return;
	atomic_fetch_add(&((struct hl_session *)map)->unregistered, 1);
	attach_raw(SYS_munmap, (uint64_t)map, sizeof(struct hl_session), 0, 0, 0, 0);
}

/* The name outlives the file: when it is gone anybody can lay another one there. */
static bool is_ours(int64_t fd)
{
	struct stat status = {0};
	int64_t user = attach_early(HL_KIND_other, SYS_geteuid, 0, 0, 0, 0, 0, 0);

	return attach_early(HL_KIND_other, SYS_fstat, (uint64_t)fd, address_of(&status), 0, 0, 0,
		       0) == 0 &&
	       S_ISREG(status.st_mode) && status.st_uid == (uid_t)user;
}

static struct hl_session *map_session(void)
{
	struct hl_session header;
	int64_t map = -ENOENT;
	int64_t fd = attach_early(HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
		address_of(session_path), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0, 0, 0);

	if (fd < 0)
		return NULL;
	if (is_ours(fd) &&
		attach_early(HL_KIND_other, SYS_pread64, (uint64_t)fd, address_of(&header),
		    sizeof(header), 0, 0, 0) == sizeof(header) &&
		sound(&header)) {
		map = attach_early(HL_KIND_mmap, SYS_mmap, 0, header.session_bytes,
			PROT_READ | PROT_WRITE, MAP_SHARED, (uint64_t)fd, 0);
		if (map < 0 && map > -4096)
			count_unregistered(fd); /* an address space limit, usually */
	}
	attach_early(HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return map < 0 && map > -4096 ? NULL : (struct hl_session *)map;
}

static bool map_token(void)
{
	int64_t map = attach_early(HL_KIND_mmap, SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0);

	if (map < 0 && map > -4096)
		return false;
	token_page = (uint32_t *)map;
	return attach_early(HL_KIND_madvise, SYS_madvise, (uint64_t)map, 4096, MADV_WIPEONFORK, 0,
		       0, 0) == 0;
}

static struct hl_process *claim_slot(struct hl_session *session)
{
	char *table = (char *)session + session->header_bytes;

	for (uint32_t i = 0; i < atomic_load(&session->backed_processes); i++) {
		struct hl_process *process = (struct hl_process *)table + i;
		uint32_t expected = HL_PROCESS_FREE;

		if (atomic_load_explicit(&process->state, memory_order_relaxed) == expected &&
			atomic_compare_exchange_strong(
				&process->state, &expected, HL_PROCESS_CLAIMED))
			return process;
	}
	atomic_fetch_add(&session->unregistered, 1);
	return NULL;
}

/* Which pids these are: the collector may live among others. */
static uint64_t pid_namespace(void)
{
	struct stat ns;

	if (attach_early(HL_KIND_other, SYS_newfstatat, (uint64_t)AT_FDCWD,
		    address_of("/proc/self/ns/pid"), address_of(&ns), 0, 0, 0) != 0)
		return 0;
	return ns.st_ino;
}

static bool register_process(uint32_t parent_serial, uint64_t fork_id, uint64_t start_tick)
{
	struct hl_process *process = attached.alone ? alone_create() : claim_slot(attached.session);

	if (process == NULL)
		return false;
	process->pid = (uint32_t)attach_early(HL_KIND_other, SYS_getpid, 0, 0, 0, 0, 0, 0);
	process->ppid = (uint32_t)attach_early(HL_KIND_other, SYS_getppid, 0, 0, 0, 0, 0, 0);
	process->pid_namespace = pid_namespace();
	process->parent_serial = parent_serial;
	process->fork_id = fork_id;
	process->start_tick = start_tick;
	process->exited = 0;
	process->elsewhere = elsewhere_is_malloc();
	process->policy = attach_mode == HL_MODE_OBSERVE ? 0 : (uint8_t)policy;
	process->mode = attach_mode;
	process->caches = address_of(attach_caches);
	atomic_store_explicit(&process->lost, 0, memory_order_relaxed);
	for (size_t i = 0; i < sizeof(command); i++)
		process->command[i] = command[i];
	if (!attached.alone)
		atomic_store_explicit(&process->serial,
			atomic_fetch_add(&attached.session->next_serial, 1), memory_order_relaxed);
	attached.serial = atomic_load_explicit(&process->serial, memory_order_relaxed);
	attached.process = process;
	attached.sequence = 0;
	attached.forks = 0;
	atomic_store_explicit(&process->state, HL_PROCESS_LIVE, memory_order_release);
	return true;
}

/* The first calls were made before the session said what a tick is, and have the TSC. */
static void settle_clock(bool tsc)
{
	attached.clock_known = true;
	attached.tsc = tsc;
	if (tsc)
		return;
	for (uint32_t i = 0; i < attached.call_count; i++) {
		attached.calls[i].tick = early_ns[i].start;
		attached.calls[i].duration = early_ns[i].end - early_ns[i].start;
	}
}

static void find_program(void)
{
	int64_t length = attach_early(HL_KIND_other, SYS_readlinkat, (uint64_t)AT_FDCWD,
		address_of("/proc/self/exe"), address_of(program), sizeof(program) - 1, 0, 0);

	program[length > 0 ? length : 0] = '\0';
}

const char *attach_program(void)
{
	return program;
}

static bool attach_image(void)
{
	char **envp, **argv = find_arguments(&envp);

	if (!find_session(envp) && !(attached.alone = alone_find(envp)))
		return false;
	attached.clock = argv != NULL ? vdso_find_clock(envp) : NULL;
	keep_command(argv);
	policy = settings_policy_of(envp);
	attached.session = attached.alone ? &no_session : map_session();
	if (attached.session == NULL)
		return false;
	settle_clock(attached.alone ? alone_trusts_tsc() : attached.session->clock == HL_CLOCK_TSC);
	if (attached.session->module_limit != 0)
		find_program();
	return map_token() && register_process(0, 0, attached.calls[0].tick);
}

/* What is written to the old addresses from here on is nobody's. A length of 0 asks mremap for a
 * second mapping of the same pages. */
static bool move_session(void)
{
	struct hl_session *old = attached.session;
	size_t bytes = old->session_bytes;
	int64_t map = attach_early(
		HL_KIND_mremap, SYS_mremap, address_of(old), 0, bytes, MREMAP_MAYMOVE, 0, 0);

	if (map < 0 && map > -4096)
		return false;
	attached.session = (struct hl_session *)map;
	map = attach_early(HL_KIND_mmap, SYS_mmap, address_of(old), bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, (uint64_t)-1, 0);
	return map >= 0 || map <= -4096;
}

static bool attach_copy(uint64_t fork_id, bool interrupted)
{
	uint32_t parent = attached.serial;
	uint64_t start = attach_tick();

	attached.call_count = 0;
	modules_fork_child();
	if (attached.alone)
		return alone_leave_parent(interrupted) && register_process(parent, fork_id, start);
	return (!interrupted || move_session()) &&
	       atomic_load_explicit(&attached.session->state, memory_order_relaxed) ==
		       HL_SESSION_OPEN &&
	       register_process(parent, fork_id, start);
}

void attach_process(uint64_t fork_id, bool interrupted)
{
	bool recording;

	/* A signal handler may come here in the middle: its calls are not recorded. Nor can
	 * another thread be first: ld.so allocates before there is one, a copy has only one. */
	if (atomic_exchange(&attaching, 1) != 0)
		return;
	recording = attached.session == NULL ? attach_image() : attach_copy(fork_id, interrupted);
	atomic_store(&attached.recording, recording);
	atomic_store(&log_off, !recording);
	if (recording) {
		*token_page = token_first;
		if (!attached.alone)
			attach_round = &attached.session->round;
	}
	attach_token_real = recording ? token_page : &always;
	__atomic_store_n(&attach_token, attach_token_real, __ATOMIC_RELEASE);
	atomic_store(&attaching, 0);
}

void attach_hold(void)
{
	struct timespec settle = {.tv_nsec = HOLD_SETTLE_NS};

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	atomic_store(&held, true);
	token_first = __atomic_load_n(token_page, __ATOMIC_RELAXED) + 1;
	if (token_first == 0)
		token_first = 1;
	__atomic_store_n(&attach_token, &never, __ATOMIC_SEQ_CST);
	if (!__libc_single_threaded)
		attach_raw(SYS_nanosleep, address_of(&settle), 0, 0, 0, 0, 0);
}

void attach_release(void)
{
	__atomic_store_n(&attach_token, attach_token_real, __ATOMIC_SEQ_CST);
	atomic_store(&held, false);
}

/* Never from 0, nor to it. */
void attach_change_token(void)
{
	uint32_t *token = token_page, seen;

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return;
	seen = __atomic_load_n(token, __ATOMIC_RELAXED);
	while (seen != 0 && !__atomic_compare_exchange_n(token, &seen, seen + 1 != 0 ? seen + 1 : 1,
				    false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
	}
}

void attach_wait_release(void)
{
	struct timespec pause = {.tv_nsec = HOLD_PAUSE_NS};
	uint64_t start;

	if (!atomic_load(&held))
		return;
	start = attach_monotonic();
	while (atomic_load(&held) && attach_monotonic() - start < HOLD_LONGEST_NS)
		attach_raw(SYS_nanosleep, address_of(&pause), 0, 0, 0, 0, 0);
}

static void detach(bool collector_gone)
{
	bool recording = atomic_exchange(&attached.recording, false);

	atomic_store(&log_off, true);
	if (!recording || !collector_gone)
		return;
	/* Nobody else is left to remove the file. */
	attach_raw(SYS_unlinkat, (uint64_t)AT_FDCWD, address_of(session_path), 0, 0, 0, 0);
}

static size_t read_file(const char *path, char *buffer, size_t length)
{
	int64_t got, fd = attach_raw(SYS_openat, (uint64_t)AT_FDCWD, address_of(path),
			     O_RDONLY | O_CLOEXEC, 0, 0, 0);

	if (fd < 0)
		return 0;
	got = attach_raw(SYS_read, (uint64_t)fd, address_of(buffer), length - 1, 0, 0, 0);
	attach_raw(SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	if (got < 0)
		got = 0;
	buffer[got] = '\0';
	return (size_t)got;
}

/* Whether the collector is dead; a zombie that its parent has not waited for is, too. */
static bool collector_gone(void)
{
	char path[32] = "/proc/", buffer[256], digits[12];
	uint32_t pid = attached.session->collector_pid;
	size_t n = 0, at = 6, length;

	for (uint32_t rest = pid; rest > 0; rest /= 10)
		digits[n++] = (char)('0' + rest % 10);
	while (n > 0)
		path[at++] = digits[--n];
	copy_text(path + at, sizeof(path) - at, "/stat");
	length = read_file(path, buffer, sizeof(buffer));
	while (length > 0 && buffer[length - 1] != ')')
		length--;
	if (length > 0)
		return buffer[length + 1] == 'Z' || buffer[length + 1] == 'X';
	return attach_raw(SYS_kill, pid, 0, 0, 0, 0, 0) == -ESRCH;
}

/* Once in a while, when the beat has stopped: a program must not fill memory for nobody. */
static bool still_collected(struct hl_session *session)
{
	uint64_t beat = atomic_load_explicit(&session->collector_beat, memory_order_relaxed);

	if (beat != atomic_exchange_explicit(&beat_seen, beat, memory_order_relaxed)) {
		atomic_store_explicit(&stale_takes, 0, memory_order_relaxed);
		return true;
	}
	if (atomic_fetch_add_explicit(&stale_takes, 1, memory_order_relaxed) % STALE_TAKES !=
		STALE_TAKES - 1)
		return true;
	if (!collector_gone())
		return true;
	detach(true);
	return false;
}

static struct hl_page *page_at(struct hl_session *session, uint32_t number)
{
	return (struct hl_page *)((char *)session + session->pages_offset +
				  (uint64_t)number * HL_PAGE_BYTES);
}

/* A page that the collector has not had allocated yet: the kernel does it now, or says that it
 * cannot, where a touch would be a SIGBUS. Before Linux 5.14 it always says so. */
static bool back_page(struct hl_session *session, uint32_t number)
{
	return attach_raw(SYS_madvise, address_of(page_at(session, number)), HL_PAGE_BYTES,
		       MADV_POPULATE_WRITE, 0, 0, 0) == 0;
}

/* limited: leave fresh pages alone while the collector is behind, and the last ones that it has had
 * allocated so far to those who may not wait. */
static struct hl_page *pop_page(struct hl_session *session, bool limited)
{
	_Atomic uint32_t *links = (_Atomic uint32_t *)((char *)session + session->links_offset);
	uint32_t count = session->page_count, backed, fresh;
	uint32_t entry = hl_stack_pop(&session->free_pages, links, count);

	if (entry != 0)
		return page_at(session, entry - 1);
	if (limited && atomic_load_explicit(&session->backlog, memory_order_relaxed) >
			       session->backlog_limit)
		return NULL;
	fresh = atomic_load(&session->fresh_pages);
	backed = atomic_load_explicit(&session->backed_pages, memory_order_acquire);
	do {
		if (fresh >= count)
			return NULL;
		if (limited && backed < count && fresh + RESERVE_PAGES >= backed)
			return NULL;
		if (fresh >= backed && !back_page(session, fresh))
			return NULL;
	} while (!atomic_compare_exchange_weak(&session->fresh_pages, &fresh, fresh + 1));
	return page_at(session, fresh);
}

/* Every page is in use, or the collector behind. Waits while the collector lives and works; gives
 * up when its rounds bring no page for long, since then all pages belong to idle threads. */
static struct hl_page *wait_page(struct hl_session *session)
{
	struct timespec pause = {.tv_nsec = WAIT_FIRST_NS};
	uint64_t start = attach_monotonic(), moved = start, now = start;
	uint64_t beat = atomic_load(&session->collector_beat), seen;
	struct hl_page *page = NULL;

	atomic_fetch_add(&session->waiting, 1);
	while (page == NULL && atomic_load(&session->state) == HL_SESSION_OPEN) {
		attach_raw(SYS_nanosleep, address_of(&pause), 0, 0, 0, 0, 0);
		page = pop_page(session, now - start < WAIT_BACKLOG_NS);
		if (pause.tv_nsec < WAIT_LONGEST_NS)
			pause.tv_nsec *= 2;
		now = attach_monotonic();
		seen = atomic_load(&session->collector_beat);
		if (seen != beat) {
			beat = seen;
			moved = now;
			if (now - start > WAIT_STARVED_NS)
				break;
		} else if (now - moved > WAIT_BEATLESS_NS) {
			if (collector_gone()) {
				detach(true);
				break;
			}
			moved = now;
		}
	}
	atomic_fetch_sub(&session->waiting, 1);
	return page;
}

/* No more is recorded, and what is not is not lost. In the copy that a handler forked in the middle of
 * this, `session` is where the parent has it: private memory, which says nothing. */
static bool has_ended(const struct hl_session *session)
{
	bool ended = atomic_load_explicit(&session->state, memory_order_relaxed) != HL_SESSION_OPEN;

	atomic_signal_fence(memory_order_seq_cst);
	return ended && __atomic_load_n(&attached.session, __ATOMIC_RELAXED) == session;
}

static struct hl_page *take_session_page(bool may_wait)
{
	struct hl_session *session = attached.session;
	struct hl_page *page;

	if (has_ended(session)) {
		detach(false);
		return NULL;
	}
	if (!still_collected(session))
		return NULL;
	may_wait = may_wait && session->on_full == HL_ON_FULL_WAIT;
	page = pop_page(session, may_wait);
	if (page == NULL && may_wait)
		page = wait_page(session);
	if (page == NULL && has_ended(session))
		detach(false);
	return page;
}

struct hl_page *attach_take_page(uint32_t tid, bool may_wait, struct alone_calls *calls)
{
	struct hl_page *page;

	if (!atomic_load_explicit(&attached.recording, memory_order_relaxed))
		return NULL;
	page = attached.alone ? alone_take_page(calls) : take_session_page(may_wait);
	if (page == NULL)
		return NULL;
	atomic_store_explicit(&page->used, 0, memory_order_relaxed);
	page->serial = attached.serial;
	page->tid = tid;
	page->tick = attach_tick();
	page->sequence = atomic_fetch_add(&attached.sequence, 1);
	atomic_store_explicit(&page->state, HL_PAGE_OWNED, memory_order_release);
	return page;
}

static uint64_t page_offset(const struct hl_page *page)
{
	return address_of(page) - address_of(attached.session) - attached.session->pages_offset;
}

bool attach_has_page(const struct hl_page *page)
{
	if (attached.alone)
		return alone_has_page(page);
	return page_offset(page) / HL_PAGE_BYTES < attached.session->page_count;
}

void attach_give_page(struct hl_page *page)
{
	struct hl_session *session = attached.session;

	if (attached.alone)
		alone_give_page(page);
	if (attached.alone || !attach_has_page(page))
		return;
	atomic_fetch_add_explicit(&session->backlog, 1, memory_order_relaxed);
	atomic_store_explicit(&page->state, HL_PAGE_READY, memory_order_release);
	hl_stack_push(&session->ready_pages,
		(_Atomic uint32_t *)((char *)session + session->links_offset),
		(uint32_t)(page_offset(page) / HL_PAGE_BYTES));
}

/* The number behind "\nName:" in /proc/self/status, which is in KiB, as bytes. */
static uint64_t status_bytes(const char *status, const char *name)
{
	uint64_t value = 0;

	for (const char *line = status; *line != '\0'; line++) {
		if ((line != status && line[-1] != '\n') || !starts_with(line, name))
			continue;
		while (*line != '\0' && (*line < '0' || *line > '9'))
			line++;
		for (; *line >= '0' && *line <= '9'; line++)
			value = value * 10 + (uint64_t)(*line - '0');
		break;
	}
	return value * 1024;
}

#define PAGES_RUNS 1024
#define PAGES_MORE 4194304 /* as many as the recorder takes of a process that runs */
#define PAGES_LESS 131072  /* where there is no room for so many */
#define PAGES_BYTES(runs) ((runs) * sizeof(struct hl_pagemap_region))
#define PAGES_END ((UINT64_C(1) << 47) - 4096)

/* In .bss, where it takes memory only when it is used: at the end of the process, once. */
static struct hl_pagemap_region pages_run[PAGES_RUNS];

static int64_t pages_call(struct attach_pages *pages, enum hl_kind kind, long number, uint64_t a,
	uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return attach_call(&pages->call[pages->calls++], kind, number, a, b, c, d, e, 0);
}

/* Returns where it ended. The kernel stops early only if there is no room for another run; else its
 * walk_end may be where it filled a small buffer of its own last. */
static uint64_t scan_pages(struct attach_pages *pages, int64_t fd, uint64_t start, unsigned piece,
	struct hl_pagemap_region *run, uint64_t most)
{
	struct hl_pagemap_scan scan = {
		.size = sizeof(scan),
		.start = start,
		.end = PAGES_END,
		.vec = address_of(run),
		.vec_len = most,
		.category_inverted = HL_PAGEMAP_FILE | HL_PAGEMAP_ZERO,
		.category_mask = HL_PAGEMAP_FILE | HL_PAGEMAP_ZERO,
		.category_anyof_mask = HL_PAGEMAP_PRESENT | HL_PAGEMAP_SWAPPED,
		.return_mask = HL_PAGEMAP_PRESENT | HL_PAGEMAP_HUGE,
	};
	int64_t count = pages_call(pages, HL_KIND_other, SYS_ioctl, (uint64_t)fd, HL_PAGEMAP_SCAN,
		address_of(&scan), 0, 0);

	pages->piece[piece].run = run;
	pages->piece[piece].count = count > 0 ? (uint64_t)count : 0;
	return count >= 0 && (uint64_t)count < most ? PAGES_END : scan.walk_end;
}

/* Memory for more runs, which is touched only as it is used. It is shared, with nobody, so that it is
 * none that the scan finds. */
static struct hl_pagemap_region *more_runs(struct attach_pages *pages, uint64_t runs)
{
	int64_t more = pages_call(pages, HL_KIND_mmap, SYS_mmap, 0, PAGES_BYTES(runs),
		PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1);

	pages->room = runs;
	return more > 0 ? (struct hl_pagemap_region *)more : NULL;
}

void attach_pages(struct attach_pages *pages)
{
	struct hl_pagemap_region *more = NULL;
	uint64_t end;
	int64_t fd;

	*pages = (struct attach_pages){.cut = false};
	fd = pages_call(pages, HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
		address_of("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC, 0, 0);
	pages->tick = attach_tick();
	end = scan_pages(pages, fd, 0, 0, pages_run, PAGES_RUNS);
	if (pages->piece[0].count != 0 && end < PAGES_END) {
		more = more_runs(pages, PAGES_MORE);
		more = more != NULL ? more : more_runs(pages, PAGES_LESS);
	}
	if (more != NULL)
		end = scan_pages(pages, fd, end, 1, more, pages->room);
	pages->took = attach_tick() - pages->tick;
	pages->cut = end < PAGES_END;
	pages_call(pages, HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0);
}

unsigned attach_pages_done(struct attach_pages *pages)
{
	if (pages->piece[1].run == NULL)
		return 0;
	attach_call(&pages->call[0], HL_KIND_munmap, SYS_munmap, address_of(pages->piece[1].run),
		PAGES_BYTES(pages->room), 0, 0, 0, 0);
	return 1;
}

bool attach_sample(struct hl_sample_record *sample, struct hl_syscall_record *calls)
{
	char status[STATUS_BYTES];
	struct rusage usage = {0};
	int64_t got, fd = attach_call(&calls[0], HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
			     address_of("/proc/self/status"), O_RDONLY | O_CLOEXEC, 0, 0, 0);

	if (fd < 0)
		return false;
	got = attach_call(&calls[1], HL_KIND_other, SYS_read, (uint64_t)fd, address_of(status),
		sizeof(status) - 1, 0, 0, 0);
	attach_call(&calls[2], HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	attach_call(&calls[3], HL_KIND_other, SYS_getrusage, RUSAGE_SELF, address_of(&usage), 0, 0,
		0, 0);
	if (got <= 0)
		return false;
	status[got] = '\0';
	sample->tick = attach_tick();
	sample->kind_addr = hl_kind_addr(HL_KIND_sample, 0);
	sample->rss_anon = status_bytes(status, "RssAnon:");
	sample->rss_file = status_bytes(status, "RssFile:");
	sample->rss_shmem = status_bytes(status, "RssShmem:");
	sample->swap = status_bytes(status, "VmSwap:");
	sample->rss_peak = status_bytes(status, "VmHWM:");
	if (attached.alone)
		sample->recorder = alone_resident_bytes();
	sample->minor_faults = (uint64_t)usage.ru_minflt;
	sample->major_faults = (uint64_t)usage.ru_majflt;
	return true;
}
