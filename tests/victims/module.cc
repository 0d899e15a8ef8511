/* SPDX-License-Identifier: MIT
 *
 * A plug-in for plugins.c, built twice: allocates when it is loaded, has objects of the process and
 * of the thread, throws and catches, and frees all of it when it is unloaded.
 */
#include <cstdint>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{
struct Registry {
	std::map<std::string, std::vector<int>> entries;
	std::string *heap;
	Registry() : heap(new std::string(3000, 'r'))
	{
		for (int i = 0; i < 200; i++)
			entries["entry number " + std::to_string(i)].assign(
				static_cast<size_t>(i), i);
	}
	~Registry()
	{
		delete heap;
	}
};

Registry registry;
thread_local std::vector<std::string> mine;
} // namespace

extern "C" void *module_work(int number);

extern "C" void *module_work(int number)
{
	char *block = static_cast<char *>(::operator new(1000));

	mine.push_back(std::string(static_cast<size_t>(number % 1000) + 40, 'm'));
	try {
		if (number % 2 == 0)
			throw std::runtime_error(*registry.heap);
		if (number % 3 == 0)
			::operator delete(::operator new(SIZE_MAX / 2));
	} catch (const std::exception &) {
		block[0] = 'c';
	}
	for (int i = 0; i < 1000; i++)
		block[i] = static_cast<char>(number);
	return block;
}
