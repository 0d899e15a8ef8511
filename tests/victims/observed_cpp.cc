/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_observe.py in C++: COUNT objects by each kind of new, which are
 * deleted again, COUNT that are not, and one that is too large. Prints nothing.
 *
 *     observed_cpp COUNT
 */
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace
{
struct alignas(128) Aligned {
	char bytes[256];
};

template <typename T> T *opaque(T *pointer)
{
	__asm__ volatile("" : "+r"(pointer));
	return pointer;
}

bool throws()
{
	volatile std::size_t huge = PTRDIFF_MAX / 2;

	try {
		opaque(static_cast<char *>(::operator new(huge)));
	} catch (const std::bad_alloc &) {
		return true;
	}
	return false;
}
} // namespace

int main(int argc, char **argv)
{
	long count = argc == 2 ? std::atol(argv[1]) : 0;

	for (long i = 0; i < count; i++) {
		delete opaque(new long(i));
		delete opaque(new Aligned);
		delete[] opaque(new (std::nothrow) char[1000]);
		opaque(new char[77]);
	}
	opaque(new (std::nothrow) char[static_cast<std::size_t>(count) + 1]);
	return throws() ? 0 : 2; /* not all allocators throw */
}
