/* SPDX-License-Identifier: MIT
 *
 * See collector.h. A round is: new processes, ready pages, the dead, samples, the line. Rounds
 * follow each other every millisecond while pages come and up to every ten when none do.
 */
#include "collector.h"
#include "kernel.h"
#include "mark.h"
#include "ring.h"
#include "sample.h"
#include "stream.h"
#include "taking.h"
#include "tool.h"

#include "heapledger/stack.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUSY_ROUND_MS 1 /* also how often threads that log read the time, if not more often */
#define IDLE_ROUND_MS 10
#define WAIT_ROUND_MS 1000
#define CLOCK_NS UINT64_C(1000000000)
#define SAMPLE_SHARE 10 /* sampling takes at most one part in this of our time */
#define LOOK_SHARE 200  /* and looking at most one part in this, in each of two ways */
#define EVENTS 64
#define POLL_PAGES 16u
#define BEHIND_PAGES 256u /* so many at once: they come faster than they can be compressed well */

/* The begin of the recording, when its time has come; --duration counts from here. */
static void keep_start(struct collector *collector)
{
	if (collector->processes.begin_tick != UINT64_MAX ||
		session_monotonic() - collector->started_ns < collector->start_after_ns)
		return;
	processes_begin(&collector->processes);
	collector->started_ns = session_monotonic();
}

/* The end of the recording, when its time has come. The tick is read first: all that was logged up
 * to then is taken, though some of it may be logged while we take it. */
static void keep_duration(struct collector *collector)
{
	struct processes *all = &collector->processes;

	if (collector->duration_ns == 0 || all->cut_tick != 0 || all->begin_tick == UINT64_MAX ||
		session_monotonic() - collector->started_ns < collector->duration_ns)
		return;
	all->cut_tick = session_tick(&collector->session);
	atomic_store(&collector->session.map->state, HL_SESSION_CLOSED);
}

/* Takes what is on the ready list, the oldest first. A thread pushes a page before it takes the
 * next one, so this is the order of each thread's records, and no later batch holds an earlier
 * page. */
static uint32_t drain(struct collector *collector)
{
	struct session *session = &collector->session;
	uint32_t limit = session->map->page_count, count = 0;
	uint32_t entry = hl_stack_take_all(&session->map->ready_pages);

	while (entry != 0 && entry <= limit && count < limit) {
		collector->batch[count++] = entry - 1;
		entry = atomic_load_explicit(&session->links[entry - 1], memory_order_relaxed);
	}
	processes_discover(&collector->processes);
	taking_set_level(&collector->processes,
		count < BEHIND_PAGES ? STREAM_LEVEL : STREAM_LEVEL_HASTE);
	for (uint32_t i = count; i-- > 0;) {
		taking_page(&collector->processes, collector->batch[i]);
		session_free_page(session, collector->batch[i]);
		atomic_fetch_sub_explicit(&session->map->backlog, 1, memory_order_relaxed);
		/* Many pages take long, and the kernel's ring fills up meanwhile. */
		if (i % POLL_PAGES == 0)
			kernel_poll(collector->probe);
		keep_start(collector);
		keep_duration(collector);
	}
	return count;
}

/* The images that were replaced before the drain are closed after it. Returns whether there was
 * anything. */
static bool take_all(struct collector *collector)
{
	bool any;

	processes_before_drain(&collector->processes);
	any = drain(collector) > 0;
	processes_after_drain(&collector->processes);
	return any;
}

/* A full disk, usually. The program must not notice: it runs on untraced. */
static void check_failure(struct collector *collector)
{
	if (collector->failed || collector->processes.error == 0)
		return;
	collector->failed = true;
	atomic_store(&collector->session.map->state, HL_SESSION_CLOSED);
	tool_fail(TOOL_OK, "record",
		"writing to %s: %s; the program runs on unrecorded, what was written is readable",
		collector->directory, strerror(-collector->processes.error));
}

/* The images of a pid that has died: the last one ended so, those before it by exec. */
static bool close_pid(struct collector *collector, pid_t pid, enum hl_trace_end end, int32_t status)
{
	struct process *last, *next;

	drain(collector);
	last = processes_by_pid(&collector->processes, pid);
	for (struct process *p = collector->processes.alive; p != NULL; p = next) {
		next = p->next;
		if (p->pid != pid || p->hidden)
			continue;
		if (p == last)
			processes_close(&collector->processes, p, end, status);
		else
			processes_close(&collector->processes, p, HL_TRACE_END_EXEC, -1);
	}
	return last != NULL;
}

/* Our children, by birth or adopted. Each is looked at before it is waited for: until then its pid
 * belongs to nobody else. Returns whether there are more. */
static bool reap(struct collector *collector)
{
	for (;;) {
		siginfo_t info = {0};
		enum hl_trace_end end;
		int32_t end_status;
		int status = 0;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
			return errno != ECHILD;
		if (info.si_pid == 0)
			return true;
		end = info.si_code == CLD_EXITED ? HL_TRACE_END_EXIT : HL_TRACE_END_SIGNAL;
		end_status = info.si_status;
		if (!collector->stopped && !close_pid(collector, info.si_pid, end, end_status) &&
			!processes_reaped(&collector->processes, info.si_pid))
			collector->unseen++;
		waitpid(info.si_pid, &status, 0);
		if (info.si_pid == collector->child) {
			collector->child_ended = true;
			collector->child_status = status;
		}
	}
}

/* It was gone before it could be watched, or no descriptor was left for it. */
static bool is_unwatched_and_gone(const struct process *process)
{
	return process->pidfd < 0 && !process->hidden && kill(process->pid, 0) != 0 &&
	       errno == ESRCH;
}

/* Whether it had ended by now, though no round has seen it. */
static bool has_ended(const struct process *process)
{
	struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};

	return process->gone || is_unwatched_and_gone(process) ||
	       (process->pidfd >= 0 && poll(&ended, 1, 0) == 1);
}

/* As far as is known by now. */
static enum hl_trace_end end_of(const struct process *process, int32_t *status)
{
	*status = -1;
	if (process->replaced != 0)
		return HL_TRACE_END_EXEC;
	return has_ended(process) ? sample_end(process->pid, process->pidfd, status)
				  : HL_TRACE_END_DETACHED;
}

/* Processes that others wait for. */
static void close_gone(struct collector *collector)
{
	struct process *next;
	bool any = false;
	int32_t status;

	for (struct process *p = collector->processes.alive; p != NULL; p = p->next) {
		if (is_unwatched_and_gone(p))
			p->gone = true;
		any = any || p->gone;
	}
	if (!any)
		return;
	drain(collector);
	for (struct process *p = collector->processes.alive; p != NULL; p = next) {
		next = p->next;
		if (p->gone && p->replaced == 0) {
			enum hl_trace_end end = end_of(p, &status);

			processes_close(&collector->processes, p, end, status);
		}
	}
}

/* What the caches hold when a phase begins, so that how the one before ended is known with it.
 * Returns when that is. */
static uint64_t put_caches(struct collector *collector, struct process *process)
{
	struct caches_held *held = &collector->caches;
	struct caches_source source =
		caches_source(&collector->session, process->pid, process->serial, process->caches);

	if (process->hidden || caches_take(held, &source) != 0)
		return session_tick(&collector->session);
	processes_put(&collector->processes, process, held->record, (unsigned)held->count);
	return held->tick;
}

/* Returns in how many processes the phase has begun. */
static uint32_t mark_all(struct collector *collector, const char *name)
{
	struct hl_phase_record record = {.kind_addr = hl_kind_addr(HL_KIND_phase, 0)};
	uint32_t count = 0;

	hl_phase_name(&record, name);
	processes_discover(&collector->processes);
	if (collector->processes.error != 0)
		return 0;
	for (struct process *p = collector->processes.alive; p != NULL; p = p->next) {
		if (p->gone || p->replaced != 0 || p->stream == NULL)
			continue;
		record.tick = put_caches(collector, p);
		processes_put(&collector->processes, p, &record, hl_kind_slots(HL_KIND_phase));
		residency_want(collector->processes.residency, p, HL_RESIDENT_phase);
		count++;
	}
	return count;
}

static void read_marks(struct collector *collector)
{
	struct mark_request request;

	while (mark_receive(collector->mark_fd, &request))
		mark_answer(collector->mark_fd, &request, mark_all(collector, request.name));
}

static void mark_by_signal(struct collector *collector)
{
	char name[32];

	snprintf(name, sizeof(name), "signal %u", ++collector->signal_marks);
	mark_all(collector, name);
}

static void on_signal(struct collector *collector, const struct signalfd_siginfo *info)
{
	int number = (int)info->ssi_signo;
	/* The terminal signals its whole foreground group, so the program has its own copy. */
	bool from_terminal = info->ssi_code == SI_KERNEL;

	if (number == SIGCHLD)
		return;
	if (number == collector->mark_signal) {
		mark_by_signal(collector);
		return;
	}
	if (!collector->child_ended) {
		if (!from_terminal)
			kill(collector->child, number);
		return;
	}
	if (number == SIGINT || number == SIGTERM)
		collector->quit = true;
}

static void read_signals(struct collector *collector)
{
	struct signalfd_siginfo info[8];
	ssize_t got;

	while ((got = read(collector->signal_fd, info, sizeof(info))) > 0)
		for (size_t i = 0; i < (size_t)got / sizeof(info[0]); i++)
			on_signal(collector, &info[i]);
}

static void take_sample(const struct collector *collector, struct process *process)
{
	uint64_t tick = session_tick(&collector->session);

	process->sample.tick = 0;
	if (process->gone || process->hidden || process->replaced != 0 ||
		sample_read(&process->sample, process->pid) != 0)
		return;
	/* Without our pages it is another image, one that is not recorded. */
	if (process->sample.rss_shmem > 0)
		process->sample.tick = tick;
}

void collector_sampled(struct collector *collector, uint64_t began_ns)
{
	uint64_t pause = (session_monotonic() - began_ns) * SAMPLE_SHARE;

	if (pause < collector->interval_ns)
		pause = collector->interval_ns;
	collector->next_sample_ns = began_ns + pause;
}

static void sample_all(struct collector *collector, uint64_t now)
{
	struct processes *all = &collector->processes;
	uint64_t rss = 0;

	for (struct process *p = all->alive; p != NULL; p = p->next)
		take_sample(collector, p);
	taking_count_owned(all);
	for (struct process *p = all->alive; p != NULL; p = p->next) {
		if (p->sample.tick == 0)
			continue;
		p->sample.recorder = taking_recorder_bytes(all, p);
		if (p->sample.recorder > p->sample.rss_shmem)
			p->sample.recorder = p->sample.rss_shmem; /* grown since */
		rss += p->sample.rss_anon + p->sample.rss_file + p->sample.rss_shmem -
		       p->sample.recorder;
		processes_put(all, p, &p->sample, hl_kind_slots(HL_KIND_sample));
		residency_sampled(all->residency, p);
	}
	live_set_resident(&collector->live, rss, now);
	collector_sampled(collector, now);
}

static uint64_t worked_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * CLOCK_NS + (uint64_t)time.tv_nsec;
}

/* Without the kernel's own record /proc has to be the witness. The processes that were sampled just
 * now are looked at, as often as that takes little time: the last look is what counts. */
static void look_at_all(struct collector *collector)
{
	bool resident = session_monotonic() >= collector->next_resident_ns;
	uint64_t *next = resident ? &collector->next_resident_ns : &collector->next_look_ns;
	uint64_t began = worked_ns();

	for (struct process *p = collector->processes.alive; p != NULL; p = p->next) {
		if (p->sample.tick == 0 ||
			look_take(&p->look, p->pid, collector->session.path,
				LOOK_HEAP_AND_SESSION) != 0)
			continue;
		if (resident)
			look_count_resident(&p->resident, &p->look, p->pid);
	}
	*next = session_monotonic() + (worked_ns() - began) * LOOK_SHARE;
}

static void keep_time(struct collector *collector)
{
	uint64_t now = session_monotonic();

	if (now >= collector->next_sample_ns) {
		sample_all(collector, now);
		if (collector->probe == NULL && now >= collector->next_look_ns)
			look_at_all(collector);
	}
	residency_round(collector->processes.residency, session_monotonic());
	live_round(&collector->live, &collector->processes, now);
	if (now < collector->next_clock_ns)
		return;
	for (struct process *p = collector->processes.alive; p != NULL; p = p->next)
		processes_put_clock(&collector->processes, p);
	collector->next_clock_ns = now + CLOCK_NS;
}

/* Waits for the next thing to do. Returns whether a process may have ended. */
static bool wait_events(struct collector *collector, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(collector->poll_fd, events, EVENTS, timeout_ms);
	bool ended = false;

	for (int i = 0; i < count; i++) {
		void *source = events[i].data.ptr;

		if (source == &collector->mark_fd) {
			read_marks(collector);
			continue;
		}
		ended = true;
		if (source != NULL)
			((struct process *)source)->gone = true;
		else
			read_signals(collector);
	}
	return ended;
}

/* The coarse clock of the recorded threads; 0 is no time of theirs. Returns whether any of them has
 * looked at it since the last round. */
static bool tick_round(struct hl_session *map)
{
	uint32_t next = atomic_load_explicit(&map->round, memory_order_relaxed) + 1;

	atomic_store_explicit(&map->round, next != 0 ? next : 1, memory_order_relaxed);
	return atomic_exchange_explicit(&map->stamped, 0, memory_order_relaxed) != 0;
}

static int next_timeout(const struct collector *collector, bool busy, int before)
{
	uint64_t now = session_monotonic(), due = collector->next_sample_ns;
	uint64_t end = collector->started_ns + collector->duration_ns;
	int timeout = busy ? BUSY_ROUND_MS : before * 2;
	uint64_t until;

	if (collector->processes.begin_tick == UINT64_MAX)
		end = collector->started_ns + collector->start_after_ns;
	if (end > collector->started_ns && end < due)
		due = end;
	until = due > now ? (due - now + 999999) / 1000000 : 0;
	/* Somebody waits for a page: come back at once while there are any to be had. */
	if (busy && atomic_load(&collector->session.map->waiting) > 0)
		return 0;
	if (timeout < BUSY_ROUND_MS)
		timeout = BUSY_ROUND_MS;
	if (timeout > IDLE_ROUND_MS)
		timeout = IDLE_ROUND_MS;
	return until < (uint64_t)timeout ? (int)until : timeout;
}

static bool finished(struct collector *collector)
{
	if (!collector->child_ended)
		return false;
	if (collector->quit)
		return true;
	return !processes_visible(&collector->processes) && !reap(collector);
}

/* Those whose end could not be seen, after all our descendants have ended. */
static void close_hidden(struct collector *collector)
{
	drain(collector);
	while (collector->processes.alive != NULL)
		processes_close(&collector->processes, collector->processes.alive,
			HL_TRACE_END_UNKNOWN, -1);
}

static void detach_all(struct collector *collector)
{
	if (collector->processes.alive == NULL)
		return;
	collector->detached = true;
	atomic_store(&collector->session.map->state, HL_SESSION_CLOSED);
	drain(collector);
	while (collector->processes.alive != NULL)
		processes_close(&collector->processes, collector->processes.alive,
			HL_TRACE_END_DETACHED, -1);
}

static void stop(struct collector *collector)
{
	struct processes *all = &collector->processes;

	collector->stopped = true;
	drain(collector);
	while (all->alive != NULL) {
		struct process *process = all->alive;
		int32_t status;
		enum hl_trace_end end = end_of(process, &status);

		processes_close(all, process, end, status);
	}
	check_failure(collector);
}

/* Where the directory cannot hold a socket, there are no marks from outside, as `heapledger mark`
 * then says. */
void collector_open_marks(struct collector *collector)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &collector->mark_fd};

	collector->mark_fd = mark_open(collector->dirfd);
	if (collector->mark_fd >= 0)
		epoll_ctl(collector->poll_fd, EPOLL_CTL_ADD, collector->mark_fd, &event);
}

int collector_open(struct collector *collector)
{
	struct epoll_event event = {.events = EPOLLIN};
	int rc;

	collector->batch = calloc(collector->session.map->page_count, sizeof(uint32_t));
	if (collector->batch == NULL)
		return -ENOMEM;
	collector->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (collector->poll_fd < 0)
		return -errno;
	rc = epoll_ctl(collector->poll_fd, EPOLL_CTL_ADD, collector->signal_fd, &event);
	if (rc != 0)
		return -errno;
	rc = processes_open(
		&collector->processes, &collector->session, collector->dirfd, collector->poll_fd);
	if (collector->start_after_ns != 0)
		collector->processes.begin_tick = UINT64_MAX;
	collector->session.map->pages_at_exit = collector->residency_ns != 0;
	if (rc == 0 && collector->residency_ns != 0)
		rc = residency_open(&collector->processes.residency, &collector->processes,
			collector->residency_ns);
	if (rc == 0 && collector->ring_bytes != 0)
		rc = ring_open(&collector->ring, &collector->processes, collector->ring_bytes);
	return rc;
}

void collector_run(struct collector *collector)
{
	_Atomic uint64_t *beat = &collector->session.map->collector_beat;
	int timeout = BUSY_ROUND_MS;

	/* When we wake up, the program keeps its core: with both of two cores in use, redis-server
	 * under its benchmark took 1.27 s instead of 1.33 s. */
	sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
	collector->started_ns = session_monotonic();
	while (!finished(collector) && !collector->stopped) {
		bool ended = wait_events(collector, timeout), busy;

		atomic_fetch_add(beat, 1);
		busy = tick_round(collector->session.map);
		session_back(&collector->session);
		if (!ring_full(collector->ring))
			busy = take_all(collector) || busy;
		if (ended)
			reap(collector);
		close_gone(collector);
		keep_time(collector);
		kernel_poll(collector->probe);
		check_failure(collector);
		keep_start(collector);
		keep_duration(collector);
		ring_round(collector->ring);
		if (collector->processes.cut_tick != 0)
			stop(collector);
		timeout = next_timeout(collector, busy, timeout);
	}
	if (collector->quit)
		detach_all(collector);
	else if (!collector->stopped)
		close_hidden(collector);
	collector->ended_ns = session_monotonic();
	ring_end(collector->ring);
	check_failure(collector);
	processes_compact(&collector->processes);
}

void collector_wait(struct collector *collector)
{
	while (!finished(collector)) {
		wait_events(collector, WAIT_ROUND_MS);
		atomic_fetch_add(&collector->session.map->collector_beat, 1);
		reap(collector);
	}
}

void collector_close(struct collector *collector)
{
	ring_close(collector->ring);
	residency_close(collector->processes.residency);
	processes_free(&collector->processes);
	caches_free(&collector->caches);
	free(collector->batch);
	mark_close(collector->mark_fd, collector->dirfd);
	if (collector->poll_fd >= 0)
		close(collector->poll_fd);
}
