/* SPDX-License-Identifier: MIT
 *
 * For test_policy.py: what its environment, or mallopt, makes of the heap. Each word is a part of
 * the program; a part that shows a setting prints one word, the others keep watch over a promise.
 *
 *     settings PART...                   in that order
 *     settings mallopt PARAMETER VALUE PART...
 */
#include "victim.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT 100
#define THREADS 20
#define PAGE ((size_t)4096)
#define HOLE_BYTES ((size_t)50000)

static void *start_of_break;

/* The parts that show a setting. */

static void large(void)
{
	size_t before = mallinfo2().hblks;
	void *block = opaque(malloc(200000));

	puts(mallinfo2().hblks > before ? "mapped" : "heap");
	free(block);
}

static void top(void)
{
	static void *block[COUNT];

	for (int i = 0; i < COUNT; i++)
		block[i] = opaque(malloc(60000));
	for (int i = COUNT; i-- > 0;)
		free(block[i]);
	puts(mallinfo2().keepcost > COUNT * 60000 ? "kept" : "trimmed");
}

static void pad(void)
{
	opaque(malloc(100000));
	opaque(malloc(100000));
	puts(mallinfo2().arena > 2 << 20 ? "padded" : "plain");
}

/* Two blocks of 40 and of 100 bytes: in the cache they count as in use. */
static void freed(void)
{
	void *first = opaque(malloc(40)), *second = opaque(malloc(100));
	size_t before = mallinfo2().smblks;

	free(first);
	free(second);
	printf("%zu\n", mallinfo2().smblks - before);
}

/* Past the cache: fast bins, if there are any. */
static void fast(void)
{
	void *block[COUNT];
	size_t before = mallinfo2().smblks;

	for (int i = 0; i < COUNT; i++)
		block[i] = opaque(malloc(40));
	for (int i = 0; i < COUNT; i++)
		free(block[i]);
	puts(mallinfo2().smblks > before ? "fast" : "joined");
}

static void fill(void)
{
	unsigned char *block = opaque(malloc(3000));

	printf("%#x\n", block[1000]);
	free(block);
}

static pthread_barrier_t all_there;

static void *allocate_and_wait(void *unused)
{
	void *block = opaque(malloc(3000));

	pthread_barrier_wait(&all_there);
	pthread_barrier_wait(&all_there);
	free(block);
	return unused;
}

static int count_arenas(void)
{
	char *text = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&text, &bytes);
	int count = 0;

	REQUIRE(stream != NULL && malloc_info(0, stream) == 0 && fclose(stream) == 0);
	for (char *at = text; (at = strstr(at, "<heap nr=")) != NULL; at++)
		count++;
	free(text);
	return count;
}

/* With one core, arena_max being by cores is 8. */
static void arenas(void)
{
	pthread_t thread[THREADS];
	cpu_set_t one;
	int count;

	REQUIRE(sched_getaffinity(0, sizeof(one), &one) == 0);
	for (int i = 0, found = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &one) && found++ > 0)
			CPU_CLR(i, &one);
	REQUIRE(sched_setaffinity(0, sizeof(one), &one) == 0);
	REQUIRE(pthread_barrier_init(&all_there, NULL, THREADS + 1) == 0);
	for (int i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&thread[i], NULL, allocate_and_wait, NULL) == 0);
	pthread_barrier_wait(&all_there);
	count = count_arenas();
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	puts(count == 1 ? "one" : count <= 10 ? "by cores" : "one each");
}

/* The parts that keep watch. */

static void verify(const unsigned char *block, int value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		REQUIRE(block[i] == (unsigned char)value);
}

static void *make(size_t bytes, int value)
{
	void *block = value % 3 == 0 ? calloc(1, bytes) : malloc(bytes);

	if (value % 3 == 1) {
		free(block);
		block = memalign((size_t)64 << value % 8, bytes);
	}
	REQUIRE(block != NULL);
	if (value % 3 == 0)
		verify(block, 0, bytes);
	return memset(block, value, bytes);
}

/* From a few bytes to megabytes and back. */
static void *work(void *unused)
{
	unsigned char *block[COUNT];
	size_t bytes[COUNT];

	for (int i = 0; i < COUNT; i++) {
		bytes[i] = (size_t)10 << i % 19;
		block[i] = make(bytes[i], i);
	}
	for (int i = 0; i < COUNT; i++) {
		size_t size = (size_t)10 << (i * 7 + 3) % 19;

		block[i] = realloc(block[i], size);
		REQUIRE(block[i] != NULL);
		verify(block[i], i, size < bytes[i] ? size : bytes[i]);
	}
	for (int i = 0; i < COUNT; i++)
		free(block[i * 37 % COUNT]);
	return unused;
}

static void work_and_fork(void)
{
	pthread_t thread[3];
	int status;

	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_create(&thread[i], NULL, work, NULL) == 0);
	work(NULL);
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	if (fork() == 0) {
		work(NULL);
		exit(0);
	}
	REQUIRE(wait(&status) > 0 && status == 0);
	malloc_trim(0);
}

static void still(void)
{
	puts(sbrk(0) == start_of_break ? "still" : "moved");
}

/* No more memory is an error of that call, and of no other. */
static void limit(void)
{
	struct rlimit none = {.rlim_cur = 1 << 16, .rlim_max = RLIM_INFINITY};
	static void *block[10000];
	int count = 0;

	REQUIRE(setrlimit(RLIMIT_DATA, &none) == 0);
	errno = 0;
	while (count < 10000 && (block[count] = malloc(3000)) != NULL)
		memset(block[count++], 1, 3000);
	REQUIRE(count < 10000 && errno == ENOMEM);
	REQUIRE(opaque(malloc(1 << 20)) == NULL && errno == ENOMEM);
	REQUIRE(count > 3);
	for (int i = 0; i < count; i++)
		free(block[i]);
	for (int i = 0; i < count / 2; i++)
		REQUIRE((block[i] = malloc(3000)) != NULL);
	none.rlim_cur = RLIM_INFINITY;
	REQUIRE(setrlimit(RLIMIT_DATA, &none) == 0);
	REQUIRE((block[count] = malloc(1 << 20)) != NULL);
}

/* Holes in the heap, all touched, between blocks that stay. */
static unsigned char *hole[COUNT];

static void holes(void)
{
	for (int i = 0; i < COUNT; i++) {
		hole[i] = memset(opaque(malloc(HOLE_BYTES)), 1, HOLE_BYTES);
		memset(opaque(malloc(2000)), 2, 2000);
	}
	for (int i = 0; i < COUNT; i++)
		free(hole[i]);
}

/* But for a few pages, which the calls between have used. */
static void residence(void)
{
	size_t resident = 0, all = 0;

	for (int i = 0; i < COUNT; i++) {
		uintptr_t start = ((uintptr_t)hole[i] + 2 * PAGE - 1) & ~(PAGE - 1);
		size_t pages = ((uintptr_t)hole[i] + HOLE_BYTES - start) / PAGE;
		unsigned char page[HOLE_BYTES / PAGE + 1];

		REQUIRE(mincore((void *)start, pages * PAGE, page) == 0);
		for (size_t j = 0; j < pages; j++)
			resident += page[j] & 1;
		all += pages;
	}
	puts(resident < all / 20 ? "gone" : resident > all - all / 20 ? "resident" : "some");
}

/* A call that reaches the arena. */
static void call(void)
{
	free(opaque(malloc(3000)));
}

static void pause_10ms(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

static void large_free(void)
{
	void *block = opaque(malloc(100000)), *behind = opaque(malloc(2000));

	free(block);
	memset(behind, 1, 2000);
}

static void trim(void)
{
	malloc_trim(0);
}

static void zeroed(void)
{
	for (int i = 0; i < COUNT; i++)
		verify(memset(hole[i] = opaque(calloc(1, HOLE_BYTES)), 0, 0), 0, HOLE_BYTES);
}

static void info(void)
{
	REQUIRE(malloc_info(0, stdout) == 0);
}

/* For whoever compares: the figures of mallinfo2, of mallinfo, and malloc_stats on stderr. A thread
 * makes another arena. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void *use_arena_and_tell(void *kept)
{
	struct mallinfo2 wide;
	struct mallinfo narrow;

	memset(opaque(malloc(70000)), 1, 70000);
	free(opaque(malloc(3000)));
	if (kept == NULL)
		return NULL;
	wide = mallinfo2();
	narrow = mallinfo();
	printf("%zu %zu %zu %zu\n", wide.arena, wide.uordblks, wide.hblks, wide.hblkhd);
	printf("%d %d %d %d\n", narrow.arena, narrow.uordblks, narrow.hblks, narrow.hblkhd);
	malloc_stats();
	return NULL;
}
#pragma GCC diagnostic pop

static void stats(void)
{
	pthread_t thread;
	void *large[3];

	puts("stats"); /* stdout has its buffer now */
	for (int i = 0; i < 3; i++)
		large[i] = opaque(malloc(1 << 20));
	free(large[0]);
	REQUIRE(pthread_create(&thread, NULL, use_arena_and_tell, NULL) == 0);
	pthread_join(thread, NULL);
	use_arena_and_tell(large);
}

static void megabytes(void)
{
	for (int i = 0; i < 4; i++)
		free(memset(opaque(malloc(8 << 20)), i, 8 << 20));
	memset(opaque(malloc(60000)), 1, 60000);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{"large", large},
	{"top", top},
	{"pad", pad},
	{"freed", freed},
	{"fast", fast},
	{"fill", fill},
	{"arenas", arenas},
	{"work", work_and_fork},
	{"still", still},
	{"limit", limit},
	{"holes", holes},
	{"residence", residence},
	{"call", call},
	{"pause", pause_10ms},
	{"large_free", large_free},
	{"trim", trim},
	{"zeroed", zeroed},
	{"megabytes", megabytes},
	{"info", info},
	{"stats", stats},
};

static void run_part(const char *name)
{
	size_t i = 0;

	while (i < sizeof(parts) / sizeof(parts[0]) && strcmp(parts[i].name, name) != 0)
		i++;
	REQUIRE(i < sizeof(parts) / sizeof(parts[0]));
	parts[i].run();
}

int main(int argc, char **argv)
{
	int i = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	start_of_break = sbrk(0);
	if (argc > 3 && strcmp(argv[1], "mallopt") == 0) {
		REQUIRE(mallopt(atoi(argv[2]), atoi(argv[3])) == 1);
		i = 4;
	}
	for (; i < argc; i++)
		run_part(argv[i]);
	return 0;
}
