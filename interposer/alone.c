/* SPDX-License-Identifier: MIT
 *
 * See alone.h. Chunks are in a table that threads search without a lock: a page is taken by an
 * atomic add, and whoever finds no page left opens a chunk of his own, which others then find. So a
 * signal handler, or a thread beside one that was stopped in the middle, never waits.
 */
#include "alone.h"

#include "attach.h"
#include "line.h"
#include "log.h"

#include "heapledger/settings.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* A chunk is as large as all before it, within these. */
#define ALONE_LEAST_BYTES (UINT64_C(256) << 10)
#define ALONE_MOST_BYTES (UINT64_C(8) << 20)
#define ALONE_CHUNKS 4096
#define ALONE_NONE_LEFT (1u << 30) /* `taken` of a chunk that is not there */
#define ALONE_SIGNAL_BYTES 8       /* of the kernel's signal sets */
#define ALONE_ZERO_BYTES 65536
#define ALONE_ZERO_PARTS 16 /* of them are written at once */
#define ALONE_SERIAL_TRIES 100
#define ALONE_LEAST_LIMIT (UINT64_C(1) << 20) /* of RLIMIT_FSIZE, to begin at all */

enum { CHUNK_FREE = 0, CHUNK_BUSY = 1, CHUNK_READY = 2 };

struct alone_chunk {
	_Atomic uint32_t state;
	_Atomic uint32_t pages;
	_Atomic(char *) base;    /* NULL: it holds no page */
	_Atomic uint32_t serial; /* of the process whose file it is of */
	_Atomic uint32_t taken;
	_Atomic uint32_t given; /* full, or their threads have ended */
	_Atomic bool left;      /* memory was told that all pages are taken */
};

static struct alone_chunk alone_chunks[ALONE_CHUNKS];
static _Atomic uint32_t alone_high;    /* chunks from here on were never used */
static _Atomic uint32_t alone_current; /* where a page was found last */
static _Atomic uint64_t alone_end;     /* of the file: the next chunk's offset */
static struct hl_raw *alone_header;
static char alone_path[PATH_MAX]; /* of the file; its directory comes first */
static size_t alone_directory_bytes;
static char alone_variable[PATH_MAX + sizeof(HL_RAW_ENV)];
static struct settings alone_settings;
static dev_t alone_device; /* of the file, to know it again */
static ino_t alone_inode;
static uid_t alone_serials_owner;
static struct stat alone_stderr; /* as it was at the start */

static bool alone_failed(int64_t result)
{
	return result < 0 && result > -4096;
}

static uint64_t alone_address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

/* `calls` NULL: kept for the first page of the process. */
static int64_t alone_call(struct alone_calls *calls, enum hl_kind kind, long number, uint64_t a,
	uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	struct hl_syscall_record spare, *record = &spare;

	if (calls == NULL)
		return attach_early(kind, number, a, b, c, d, e, f);
	if (calls->count < ALONE_CALLS)
		record = &calls->call[calls->count++];
	return attach_call(record, kind, number, a, b, c, d, e, f);
}

/* ---- what is said ---------------------------------------------------------------------------- */

static const char *alone_reason(int error)
{
	static const struct {
		int error;
		const char *text;
	} reasons[] = {
		{ENOENT, "no such directory"},
		{ENOTDIR, "not a directory"},
		{EACCES, "permission denied"},
		{EPERM, "not permitted"},
		{ELOOP, "a symbolic link is in its place"},
		{ENXIO, "a pipe is in its place"},
		{EROFS, "read-only file system"},
		{ENOSPC, "no space left on device"},
		{EDQUOT, "disk quota exceeded"},
		{EFBIG, "the limit on the size of files is reached"},
		{EMFILE, "no file descriptor is left"},
		{ENFILE, "no file descriptor is left in the system"},
		{ENOMEM, "not enough memory or address space"},
		{ENAMETOOLONG, "the name is too long"},
		{ESTALE, "it is not the same file any more"},
		{EEXIST, "the file is there already"},
		{EIO, "input/output error"},
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (reasons[i].error == error)
			return reasons[i].text;
	return NULL;
}

/* Whether somebody would get the line at once: the program's stderr may by now be another file, or
 * a pipe that nobody empties. */
static bool alone_may_write(void)
{
	struct stat now = {0};
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

	return alone_stderr.st_ino != 0 &&
	       attach_raw(SYS_fstat, STDERR_FILENO, alone_address(&now), 0, 0, 0, 0) == 0 &&
	       now.st_dev == alone_stderr.st_dev && now.st_ino == alone_stderr.st_ino &&
	       attach_raw(SYS_poll, alone_address(&out), 1, 0, 0, 0, 0) == 1 &&
	       (out.revents & POLLOUT) != 0 && (out.revents & POLLERR) == 0;
}

/* SIGPIPE and SIGXFSZ are for programs that write, not for those that are recorded. */
static void alone_write(const struct line *line)
{
	const uint64_t unwanted = UINT64_C(1) << (SIGPIPE - 1) | UINT64_C(1) << (SIGXFSZ - 1);
	struct timespec now = {0};
	uint64_t before = 0, pending = 0;
	int64_t written;

	if (!alone_may_write())
		return;
	attach_raw(SYS_rt_sigprocmask, SIG_BLOCK, alone_address(&unwanted), alone_address(&before),
		ALONE_SIGNAL_BYTES, 0, 0);
	attach_raw(SYS_rt_sigpending, alone_address(&pending), ALONE_SIGNAL_BYTES, 0, 0, 0, 0);
	written = attach_raw(
		SYS_write, STDERR_FILENO, alone_address(line->text), line->used, 0, 0, 0);
	if ((written == -EPIPE || written == -EFBIG) && (pending & unwanted) == 0)
		attach_raw(SYS_rt_sigtimedwait, alone_address(&unwanted), 0, alone_address(&now),
			ALONE_SIGNAL_BYTES, 0, 0);
	attach_raw(SYS_rt_sigprocmask, SIG_SETMASK, alone_address(&before), 0, ALONE_SIGNAL_BYTES,
		0, 0);
}

static void alone_complain(const char *path, int error)
{
	struct line line = {.used = 0};
	size_t bytes = strlen(path), most = LINE_BYTES - 160;

	line_text(&line, "heapledger: recording into ");
	line_add(&line, path, bytes < most ? bytes : most);
	line_text(&line, ": ");
	if (alone_reason(error) != NULL) {
		line_text(&line, alone_reason(error));
	} else {
		line_text(&line, "errno ");
		line_number(&line, (uintptr_t)error, 10);
	}
	line_text(&line, "; the program runs on unrecorded");
	line.text[line.used++] = '\n';
	alone_write(&line);
}

/* The program must not notice: it runs on, what was written stays readable. */
static void alone_stop(int error)
{
	if (!atomic_exchange(&attached.recording, false))
		return;
	atomic_store(&log_off, true);
	atomic_store(&alone_header->stopped, (uint32_t)error);
	alone_complain(alone_path, error);
}

/* ---- the directory --------------------------------------------------------------------------- */

static size_t alone_append(char *to, size_t at, size_t room, const char *text)
{
	while (*text != '\0' && at + 1 < room)
		to[at++] = *text++;
	to[at] = '\0';
	return at;
}

static size_t alone_append_number(char *to, size_t at, size_t room, uint64_t value)
{
	char digits[24];
	size_t n = sizeof(digits) - 1;

	digits[n] = '\0';
	do {
		digits[--n] = (char)('0' + value % 10);
		value /= 10;
	} while (value != 0);
	return alone_append(to, at, room, digits + n);
}

/* Programs that this one starts get the directory, not what its name means where they start. */
static void alone_rename(char **entry)
{
	size_t at = alone_append(alone_variable, 0, sizeof(alone_variable), HL_RAW_ENV "=");

	alone_append(alone_variable, at, sizeof(alone_variable), alone_path);
	*entry = alone_variable;
}

/* 0 or an errno. */
static int alone_resolve(char **entry, const char *value)
{
	size_t at = 0, room = sizeof(alone_path) - NAME_MAX;
	int64_t got;

	if (value[0] != '/') {
		got = attach_early(
			HL_KIND_other, SYS_getcwd, alone_address(alone_path), room, 0, 0, 0, 0);
		if (got < 0 || alone_path[0] != '/')
			return got < 0 ? (int)-got : ENOENT;
		at = alone_append(alone_path, (size_t)got - 1, room, "/");
	}
	at = alone_append(alone_path, at, room, value);
	if (at + 1 >= room)
		return ENAMETOOLONG;
	alone_directory_bytes = at;
	if (value[0] != '/')
		alone_rename(entry);
	return 0;
}

bool alone_find(char **envp)
{
	static const char name[] = HL_RAW_ENV "=";
	char **envp_start = envp;
	int error;

	for (; envp != NULL && *envp != NULL; envp++)
		if (strncmp(*envp, name, sizeof(name) - 1) == 0)
			break;
	if (envp == NULL || *envp == NULL || (*envp)[sizeof(name) - 1] == '\0')
		return false;
	if (attach_early(HL_KIND_other, SYS_fstat, STDERR_FILENO, alone_address(&alone_stderr), 0,
		    0, 0, 0) != 0)
		alone_stderr.st_ino = 0;
	settings_read(&alone_settings, envp_start, NULL, NULL);
	error = alone_resolve(envp, *envp + sizeof(name) - 1);
	if (error != 0)
		alone_complain(*envp + sizeof(name) - 1, error);
	return error == 0;
}

/* ---- clocks ---------------------------------------------------------------------------------- */

static bool alone_source_is_tsc(void)
{
	static const char path[] =
		"/sys/devices/system/clocksource/clocksource0/current_clocksource";
	char text[5] = {0};
	int64_t fd = attach_early(HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
		alone_address(path), O_RDONLY | O_CLOEXEC, 0, 0, 0);

	if (alone_failed(fd))
		return false;
	attach_early(HL_KIND_other, SYS_read, (uint64_t)fd, alone_address(text), 4, 0, 0, 0);
	attach_early(HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return strcmp(text, "tsc\n") == 0;
}

/* As record/session.c: it ticks evenly on all cores by the processor's word and the kernel's. */
bool alone_trusts_tsc(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(0x80000001, &a, &b, &c, &d) == 0 || (d >> 27 & 1) == 0 ||
		__get_cpuid(0x80000007, &a, &b, &c, &d) == 0 || (d >> 8 & 1) == 0)
		return false;
	return alone_source_is_tsc();
}

/* The closest of a few tries: the thread may be put aside in between. */
void alone_read_clocks(uint64_t *tick, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 3; i++) {
		uint64_t before = attach_tick(), now = attach_monotonic();
		uint64_t took = attach_tick() - before;

		if (took >= best)
			continue;
		best = took;
		*tick = attached.tsc ? before + took / 2 : now;
		*ns = now;
	}
}

static uint64_t alone_realtime(uint64_t monotonic_ns)
{
	struct timespec now = {0};

	if (attached.clock != NULL)
		attached.clock(CLOCK_REALTIME, &now);
	else
		attach_early(HL_KIND_other, SYS_clock_gettime, CLOCK_REALTIME, alone_address(&now),
			0, 0, 0, 0);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec -
	       (attach_monotonic() - monotonic_ns);
}

/* ---- room in the file ------------------------------------------------------------------------ */

/* Where the kernel cannot reserve: zeros, and the disk is full before the program is in trouble. */
static int64_t alone_write_zeros(
	struct alone_calls *calls, int64_t fd, uint64_t offset, uint64_t bytes)
{
	static char zeros[ALONE_ZERO_BYTES]; /* never written */
	struct iovec parts[ALONE_ZERO_PARTS];
	uint64_t end = offset + bytes;

	while (offset < end) {
		size_t count = 0;
		int64_t wrote;

		for (uint64_t rest = end - offset; rest > 0 && count < ALONE_ZERO_PARTS; count++) {
			uint64_t part = rest < sizeof(zeros) ? rest : sizeof(zeros);

			parts[count] = (struct iovec){zeros, part};
			rest -= part;
		}
		wrote = alone_call(calls, HL_KIND_other, SYS_pwritev, (uint64_t)fd,
			alone_address(parts), count, offset, 0, 0);
		if (wrote == -EINTR)
			continue;
		if (wrote <= 0)
			return wrote < 0 ? wrote : -ENOSPC;
		offset += (uint64_t)wrote;
	}
	return 0;
}

/* Some file systems undo it all for any signal; a timer's would never let it end. */
static int64_t alone_allocate_unsignalled(
	struct alone_calls *calls, int64_t fd, uint64_t offset, uint64_t bytes)
{
	uint64_t all = UINT64_MAX, before = 0;
	int64_t result;

	alone_call(calls, HL_KIND_other, SYS_rt_sigprocmask, SIG_BLOCK, alone_address(&all),
		alone_address(&before), ALONE_SIGNAL_BYTES, 0, 0);
	result = alone_call(
		calls, HL_KIND_other, SYS_fallocate, (uint64_t)fd, 0, offset, bytes, 0, 0);
	alone_call(calls, HL_KIND_other, SYS_rt_sigprocmask, SIG_SETMASK, alone_address(&before), 0,
		ALONE_SIGNAL_BYTES, 0, 0);
	return result;
}

/* The kernel would answer with a signal. */
static bool alone_exceeds_limit(struct alone_calls *calls, uint64_t bytes)
{
	struct rlimit limit = {.rlim_cur = RLIM_INFINITY};

	alone_call(calls, HL_KIND_other, SYS_prlimit64, 0, RLIMIT_FSIZE, 0, alone_address(&limit),
		0, 0);
	return limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur;
}

/* 0 or -errno. */
static int64_t alone_reserve(struct alone_calls *calls, int64_t fd, uint64_t offset, uint64_t bytes)
{
	int64_t result;

	if (alone_exceeds_limit(calls, offset + bytes))
		return -EFBIG;
	result = alone_call(
		calls, HL_KIND_other, SYS_fallocate, (uint64_t)fd, 0, offset, bytes, 0, 0);
	if (result == -EINTR)
		result = alone_allocate_unsignalled(calls, fd, offset, bytes);
	if (result == -EOPNOTSUPP || result == -ENOSYS)
		result = alone_write_zeros(calls, fd, offset, bytes);
	return result;
}

static int64_t alone_map(struct alone_calls *calls, int64_t fd, uint64_t offset, uint64_t bytes)
{
	return alone_call(calls, HL_KIND_mmap, SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE,
		MAP_SHARED, (uint64_t)fd, offset);
}

static void alone_raise(_Atomic uint64_t *value, uint64_t least)
{
	uint64_t seen = atomic_load(value);

	while (seen < least && !atomic_compare_exchange_weak(value, &seen, least)) {
	}
}

/* Reserves and maps the next chunk of the file. 0 or -errno. */
static int64_t alone_extend(struct alone_calls *calls, int64_t fd, uint64_t *bytes)
{
	struct hl_raw *header = alone_header;
	uint64_t before = atomic_load(&alone_end), size = ALONE_LEAST_BYTES, offset;
	int64_t map;

	while (size < ALONE_MOST_BYTES && size * 2 <= before)
		size *= 2;
	offset = atomic_fetch_add(&alone_end, size);
	map = alone_reserve(calls, fd, offset, size);
	if (map == 0)
		map = alone_map(calls, fd, offset, size);
	if (alone_failed(map))
		return map;
	alone_raise(&header->reserved_bytes, offset + size);
	*bytes = size;
	return map;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static struct alone_chunk *alone_claim_chunk(void)
{
	for (uint32_t i = 0; i < ALONE_CHUNKS; i++) {
		uint32_t expected = CHUNK_FREE, high = atomic_load(&alone_high);

		if (atomic_load_explicit(&alone_chunks[i].state, memory_order_relaxed) !=
				expected ||
			!atomic_compare_exchange_strong(
				&alone_chunks[i].state, &expected, CHUNK_BUSY))
			continue;
		atomic_store(&alone_chunks[i].taken, ALONE_NONE_LEFT);
		while (high <= i && !atomic_compare_exchange_weak(&alone_high, &high, i + 1)) {
		}
		return &alone_chunks[i];
	}
	return NULL;
}

/* `taken` last: from then on others find pages here. The opener has the first one. */
static void alone_publish_chunk(
	struct alone_chunk *chunk, char *base, uint64_t bytes, uint32_t serial)
{
	atomic_store(&chunk->serial, serial);
	atomic_store(&chunk->given, 0);
	atomic_store(&chunk->left, false);
	atomic_store(&chunk->pages, (uint32_t)(bytes / HL_PAGE_BYTES));
	atomic_store(&chunk->base, base);
	atomic_store(&chunk->state, CHUNK_READY);
	atomic_store(&chunk->taken, 1);
	atomic_store(&alone_current, (uint32_t)(chunk - alone_chunks));
}

/* Nobody holds a page of it. */
static void alone_close_chunk(struct alone_calls *calls, struct alone_chunk *chunk)
{
	uint64_t bytes = (uint64_t)atomic_load(&chunk->pages) * HL_PAGE_BYTES;
	char *base;

	atomic_store(&chunk->taken, ALONE_NONE_LEFT);
	base = atomic_exchange(&chunk->base, NULL);
	atomic_store(&chunk->pages, 0);
	alone_call(calls, HL_KIND_munmap, SYS_munmap, alone_address(base), bytes, 0, 0, 0, 0);
}

/* A chunk that nobody else closes meanwhile. The file keeps what leaves memory here, and the page
 * in somebody's hand comes back. Returns the state that it gets. */
static uint32_t alone_clean_chunk(struct alone_calls *calls, struct alone_chunk *chunk)
{
	uint32_t pages = atomic_load(&chunk->pages);

	if (atomic_load(&chunk->taken) < pages)
		return CHUNK_READY;
	if (atomic_load(&chunk->given) == pages) {
		alone_close_chunk(calls, chunk);
		return CHUNK_FREE;
	}
	if (!atomic_exchange(&chunk->left, true))
		alone_call(calls, HL_KIND_madvise, SYS_madvise,
			alone_address(atomic_load(&chunk->base)), (uint64_t)pages * HL_PAGE_BYTES,
			MADV_DONTNEED, 0, 0, 0);
	return CHUNK_READY;
}

static void alone_clean_up(struct alone_calls *calls)
{
	uint32_t high = atomic_load(&alone_high);

	for (uint32_t i = 0; i < high && calls->count < ALONE_CALLS; i++) {
		struct alone_chunk *chunk = &alone_chunks[i];
		uint32_t expected = CHUNK_READY;

		if (atomic_compare_exchange_strong(&chunk->state, &expected, CHUNK_BUSY))
			atomic_store(&chunk->state, alone_clean_chunk(calls, chunk));
	}
}

/* The program may have renamed, removed or replaced it. */
static int64_t alone_open_again(struct alone_calls *calls)
{
	struct stat status;
	int64_t fd = alone_call(calls, HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
		alone_address(alone_path), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0, 0, 0);

	if (alone_failed(fd))
		return fd;
	if (alone_call(calls, HL_KIND_other, SYS_fstat, (uint64_t)fd, alone_address(&status), 0, 0,
		    0, 0) == 0 &&
		status.st_dev == alone_device && status.st_ino == alone_inode)
		return fd;
	alone_call(calls, HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return -ESTALE;
}

/* A signal handler may fork in the middle. The copy then goes on here with the parent's file: such
 * a chunk is never used, which its serial sees to, and no failure is the copy's. */
static struct hl_page *alone_open_chunk(struct alone_calls *calls)
{
	uint32_t serial = attached.serial;
	struct alone_chunk *chunk = alone_claim_chunk();
	uint64_t bytes = 0;
	int64_t fd, map;

	if (chunk == NULL)
		return NULL;
	map = fd = alone_open_again(calls);
	if (!alone_failed(fd)) {
		map = alone_extend(calls, fd, &bytes);
		alone_call(calls, HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	}
	if (alone_failed(map)) {
		atomic_store(&chunk->state, CHUNK_FREE);
		if (attached.serial == serial)
			alone_stop((int)-map);
		return NULL;
	}
	alone_publish_chunk(chunk, (char *)map, bytes, serial);
	alone_clean_up(calls);
	return attached.serial == serial ? (struct hl_page *)map : NULL;
}

static struct hl_page *alone_take_from(uint32_t number)
{
	struct alone_chunk *chunk = &alone_chunks[number];
	uint32_t at;

	if (atomic_load(&chunk->taken) >= atomic_load(&chunk->pages) ||
		atomic_load(&chunk->serial) != attached.serial)
		return NULL;
	at = atomic_fetch_add(&chunk->taken, 1);
	/* From here on it cannot be closed: this page was not given. */
	if (at >= atomic_load(&chunk->pages))
		return NULL;
	atomic_store_explicit(&alone_current, number, memory_order_relaxed);
	return (struct hl_page *)(atomic_load(&chunk->base) + (size_t)at * HL_PAGE_BYTES);
}

struct hl_page *alone_take_page(struct alone_calls *calls)
{
	uint32_t high = atomic_load(&alone_high);
	struct hl_page *page =
		alone_take_from(atomic_load_explicit(&alone_current, memory_order_relaxed));

	for (uint32_t i = 0; page == NULL && i < high; i++)
		page = alone_take_from(i);
	return page != NULL ? page : alone_open_chunk(calls);
}

static struct alone_chunk *alone_chunk_of(const struct hl_page *page)
{
	uint32_t high = atomic_load(&alone_high);

	for (uint32_t i = 0; i < high; i++) {
		struct alone_chunk *chunk = &alone_chunks[i];
		char *base = atomic_load(&chunk->base);
		uint64_t bytes = (uint64_t)atomic_load(&chunk->pages) * HL_PAGE_BYTES;

		/* Another chunk than the page's may come and go meanwhile. */
		if (alone_address(page) - alone_address(base) < bytes &&
			base == atomic_load(&chunk->base))
			return chunk;
	}
	return NULL;
}

bool alone_has_page(const struct hl_page *page)
{
	const struct alone_chunk *chunk = alone_chunk_of(page);

	return chunk != NULL && atomic_load(&chunk->serial) == attached.serial;
}

void alone_give_page(struct hl_page *page)
{
	struct alone_chunk *chunk = alone_chunk_of(page);

	if (chunk == NULL)
		return;
	atomic_store_explicit(&page->state, HL_PAGE_READY, memory_order_release);
	atomic_fetch_add(&chunk->given, 1);
}

uint64_t alone_resident_bytes(void)
{
	uint32_t high = atomic_load(&alone_high);
	uint64_t bytes = 4096;

	for (uint32_t i = 0; i < high; i++) {
		uint32_t pages = atomic_load(&alone_chunks[i].pages);
		uint32_t taken = atomic_load(&alone_chunks[i].taken);

		if (atomic_load(&alone_chunks[i].left))
			taken -= atomic_load(&alone_chunks[i].given);
		bytes += (uint64_t)(taken < pages ? taken : pages) * HL_PAGE_BYTES;
	}
	return bytes;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void alone_name(const char *name)
{
	size_t at = alone_append(alone_path, alone_directory_bytes, sizeof(alone_path), "/");

	alone_append(alone_path, at, sizeof(alone_path), name);
}

static void alone_name_file(uint32_t pid, uint32_t serial)
{
	size_t at = alone_append(alone_path, alone_directory_bytes, sizeof(alone_path), "/");

	at = alone_append_number(alone_path, at, sizeof(alone_path), pid);
	at = alone_append(alone_path, at, sizeof(alone_path), ".");
	at = alone_append_number(alone_path, at, sizeof(alone_path), serial);
	alone_append(alone_path, at, sizeof(alone_path), HL_RAW_SUFFIX);
}

/* In a directory that others write to, such as /tmp, the name may be a pipe, or a second one of a
 * file elsewhere. */
static bool alone_is_plain(int64_t fd)
{
	struct stat status;

	if (attach_early(HL_KIND_other, SYS_fstat, (uint64_t)fd, alone_address(&status), 0, 0, 0,
		    0) != 0)
		return false;
	alone_serials_owner = status.st_uid;
	return S_ISREG(status.st_mode) && status.st_nlink == 1;
}

/* Where the byte that a process appends comes to lie is its serial: nobody else's, and higher than
 * its parent's. A negative errno if that fails. */
static int64_t alone_take_serial(void)
{
	int64_t fd, result = -EPERM;

	alone_name(HL_RAW_SERIALS);
	fd = attach_early(HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD, alone_address(alone_path),
		O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600, 0, 0);
	if (alone_failed(fd))
		return fd;
	if (alone_is_plain(fd))
		result = attach_early(
			HL_KIND_other, SYS_write, (uint64_t)fd, alone_address("\n"), 1, 0, 0, 0);
	if (result == 1)
		result = attach_early(
			HL_KIND_other, SYS_lseek, (uint64_t)fd, 0, 1 /* SEEK_CUR */, 0, 0, 0);
	attach_early(HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return result == 0 || result > INT32_MAX ? -EIO : result;
}

/* The files of an earlier run may have outlived the list of serials. */
static int64_t alone_open_new(uint32_t *serial)
{
	uint32_t pid = (uint32_t)attach_early(HL_KIND_other, SYS_getpid, 0, 0, 0, 0, 0, 0);
	int64_t fd = -EEXIST;

	if (alone_exceeds_limit(NULL, ALONE_LEAST_LIMIT))
		return -EFBIG;
	for (int i = 0; fd == -EEXIST && i < ALONE_SERIAL_TRIES; i++) {
		int64_t next = alone_take_serial();

		if (next < 0)
			return next;
		*serial = (uint32_t)next;
		alone_name_file(pid, *serial);
		fd = attach_early(HL_KIND_other, SYS_openat, (uint64_t)AT_FDCWD,
			alone_address(alone_path),
			O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600, 0, 0);
	}
	return fd;
}

static void alone_fill_header(uint32_t serial)
{
	struct hl_raw *raw = alone_header;

	raw->version = HL_RAW_VERSION;
	raw->header_bytes = HL_RAW_HEADER_BYTES;
	raw->page_bytes = HL_PAGE_BYTES;
	raw->clock = attached.tsc ? HL_CLOCK_TSC : HL_CLOCK_MONOTONIC;
	alone_read_clocks(&raw->clock_tick, &raw->clock_ns);
	raw->realtime_ns = alone_realtime(raw->clock_ns);
	raw->memory_page_bytes = 4096;
	raw->check = alone_settings.check;
	raw->setting_count = SETTINGS_COUNT;
	raw->settings_given = alone_settings.given;
	for (unsigned i = 0; i < SETTINGS_COUNT && i < HL_RAW_SETTINGS; i++)
		raw->setting[i] = alone_settings.value[i];
	atomic_store(&raw->process.serial, serial);
	raw->magic = HL_RAW_MAGIC;
}
static_assert(SETTINGS_COUNT <= HL_RAW_SETTINGS, "all have room");

/* 0 or -errno. */
static int64_t alone_fill_file(int64_t fd, uint32_t serial)
{
	struct stat status;
	uint64_t bytes = 0;
	int64_t map = attach_early(
		HL_KIND_other, SYS_fstat, (uint64_t)fd, alone_address(&status), 0, 0, 0, 0);

	/* Serials of a stranger would be of his choice; root's are not. */
	if (map == 0 && alone_serials_owner != status.st_uid && alone_serials_owner != 0)
		map = -EPERM;
	if (map == 0)
		map = alone_reserve(NULL, fd, 0, HL_RAW_HEADER_BYTES);
	if (map == 0)
		map = alone_map(NULL, fd, 0, HL_RAW_HEADER_BYTES);
	if (alone_failed(map))
		return map;
	alone_device = status.st_dev;
	alone_inode = status.st_ino;
	alone_header = (struct hl_raw *)map;
	alone_header->reserved_bytes = HL_RAW_HEADER_BYTES;
	atomic_store(&alone_end, HL_RAW_HEADER_BYTES);
	map = alone_extend(NULL, fd, &bytes);
	if (alone_failed(map))
		return map;
	alone_publish_chunk(alone_claim_chunk(), (char *)map, bytes, serial);
	atomic_store(&alone_chunks[0].taken, 0); /* nobody has its first page yet */
	alone_fill_header(serial);
	return 0;
}

struct hl_process *alone_create(void)
{
	uint32_t serial = 0;
	int64_t fd = alone_open_new(&serial), result;

	if (alone_failed(fd)) {
		alone_path[alone_directory_bytes] = '\0';
		alone_complain(alone_path, (int)-fd);
		return NULL;
	}
	result = alone_fill_file(fd, serial);
	attach_early(HL_KIND_other, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	if (result == 0)
		return &alone_header->process;
	attach_raw(SYS_unlinkat, (uint64_t)AT_FDCWD, alone_address(alone_path), 0, 0, 0, 0);
	alone_complain(alone_path, (int)-result);
	return NULL;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* What an interrupted call is about to write to the parent's page becomes nobody's. */
static bool alone_let_go(void *base, uint64_t bytes, bool interrupted)
{
	int64_t map;

	if (!interrupted) {
		attach_early(HL_KIND_munmap, SYS_munmap, alone_address(base), bytes, 0, 0, 0, 0);
		return true;
	}
	map = attach_early(HL_KIND_mmap, SYS_mmap, alone_address(base), bytes,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
		(uint64_t)-1, 0);
	return !alone_failed(map);
}

bool alone_leave_parent(bool interrupted)
{
	uint32_t high = atomic_load(&alone_high);
	bool done = alone_let_go(alone_header, HL_RAW_HEADER_BYTES, interrupted);

	for (uint32_t i = 0; i < high; i++) {
		struct alone_chunk *chunk = &alone_chunks[i];
		char *base = atomic_load(&chunk->base);
		uint64_t bytes = (uint64_t)atomic_load(&chunk->pages) * HL_PAGE_BYTES;

		if (base != NULL && bytes != 0)
			done = alone_let_go(base, bytes, interrupted) && done;
		atomic_store(&chunk->taken, ALONE_NONE_LEFT);
		atomic_store(&chunk->base, NULL);
		atomic_store(&chunk->pages, 0);
		atomic_store(&chunk->state, CHUNK_FREE);
	}
	atomic_store(&alone_high, 0);
	atomic_store(&alone_current, 0);
	return done;
}
