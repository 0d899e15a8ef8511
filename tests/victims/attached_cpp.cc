/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_attach.py in C++. Says that it is ready and waits for lines of
 * standard input; says when it has done what each of them orders:
 *
 *     objects THREADS ROUNDS   every form of operator new and delete once, and an object that stays
 *     throws ROUNDS            a throwing and a nothrow new that fail, the first from deep in the
 *                              stack, and a malloc from deeper after it
 */
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <pthread.h>
#include <unistd.h>

namespace
{
constexpr std::align_val_t ALIGNED{256};
constexpr std::size_t HUGE_BYTES = PTRDIFF_MAX / 2;

template <typename T> T *opaque(T *pointer)
{
	__asm__ volatile("" : "+r"(pointer));
	return pointer;
}

void *objects(void *rounds)
{
	for (long i = 0; i < reinterpret_cast<long>(rounds); i++) {
		std::size_t size = static_cast<std::size_t>(i) * 37 % 3000 + 1;

		::operator delete(opaque(::operator new(size)));
		::operator delete(opaque(::operator new(size)), size);
		::operator delete[](opaque(::operator new[](size)));
		::operator delete[](opaque(::operator new[](size)), size);
		::operator delete(opaque(::operator new(size, std::nothrow)), std::nothrow);
		::operator delete[](opaque(::operator new[](size, std::nothrow)), std::nothrow);
		::operator delete(opaque(::operator new(size, ALIGNED)), ALIGNED);
		::operator delete(opaque(::operator new(size, ALIGNED)), size, ALIGNED);
		::operator delete[](opaque(::operator new[](size, ALIGNED)), ALIGNED);
		::operator delete[](opaque(::operator new[](size, ALIGNED)), size, ALIGNED);
		::operator delete(
			opaque(::operator new(size, ALIGNED, std::nothrow)), ALIGNED, std::nothrow);
		::operator delete[](opaque(::operator new[](size, ALIGNED, std::nothrow)), ALIGNED,
			std::nothrow);
		::operator delete(opaque(static_cast<void *>(nullptr)));
		std::free(opaque(std::malloc(size)));
		opaque(::operator new(10)); /* stays */
	}
	return nullptr;
}

__attribute__((noinline)) void fail(void *volatile room)
{
	volatile std::size_t huge = HUGE_BYTES;

	(void)room;
	opaque(::operator new(huge));
}

/* So far down that the stack of the call that failed is not written over. */
__attribute__((noinline)) void deeper()
{
	char room[4096];

	opaque(&room[0]);
	std::free(opaque(std::malloc(100)));
}

bool throws(long rounds)
{
	volatile std::size_t huge = HUGE_BYTES;

	for (long i = 0; i < rounds; i++) {
		bool thrown = false;

		try {
			fail(nullptr);
		} catch (const std::bad_alloc &) {
			thrown = true;
		}
		deeper();
		if (!thrown || ::operator new(huge, std::nothrow) != nullptr)
			return false;
	}
	return true;
}

bool obey(const char *line)
{
	pthread_t thread[64];
	long threads = 0, rounds = 0;

	if (std::sscanf(line, "throws %ld", &rounds) == 1)
		return throws(rounds);
	if (std::sscanf(line, "objects %ld %ld", &threads, &rounds) != 2 || threads > 64)
		return false;
	for (long i = 1; i < threads; i++)
		if (pthread_create(
			    &thread[i], nullptr, objects, reinterpret_cast<void *>(rounds)) != 0)
			return false;
	objects(reinterpret_cast<void *>(rounds));
	for (long i = 1; i < threads; i++)
		pthread_join(thread[i], nullptr);
	return true;
}
} // namespace

int main()
{
	static char line[200], output[1000];

	std::setvbuf(stdout, output, _IOFBF, sizeof(output));
	std::puts("ready");
	std::fflush(stdout);
	/* Read without stdio, which would allocate. */
	for (;;) {
		ssize_t got = read(STDIN_FILENO, line, sizeof(line) - 1);

		if (got <= 0)
			return 0;
		line[got] = '\0';
		std::puts(obey(line) ? "done" : "failed");
		std::fflush(stdout);
	}
}
