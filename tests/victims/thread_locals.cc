/* SPDX-License-Identifier: MIT
 *
 * Thread-local objects of C++ and keys of pthreads whose destructors free, allocate and even make
 * new objects: before the heap's own end of the thread, and after it.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <pthread.h>
#include <string>
#include <thread>
#include <vector>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
			std::exit(1);                                                              \
		}                                                                                  \
	} while (0)

static const int rounds = 100;
static pthread_key_t keys[40];
static int destroyed, last_rounds;

struct Holder {
	std::map<int, std::string> names;
	std::vector<std::unique_ptr<char[]>> blocks;
	~Holder()
	{
		std::string last(5000, 'x');

		for (auto &name : names)
			REQUIRE(name.second.size() == 100 && name.second[50] == 'n');
		blocks.clear();
		REQUIRE(last.find('y') == std::string::npos);
		__atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED);
	}
};

static thread_local Holder early;
static thread_local Holder late; // first used by a key's destructor, when such objects are gone

static void destroy(void *value)
{
	auto *text = static_cast<std::string *>(value);
	bool again = text->size() < 4 * 30;

	REQUIRE(text->find_first_not_of('k') == std::string::npos);
	if (again) {
		for (pthread_key_t key : keys)
			if (pthread_getspecific(key) == nullptr) {
				pthread_setspecific(
					key, new std::string(*text + std::string(30, 'k')));
				break;
			}
	} else {
		late.names[1] = std::string(100, 'n');
		__atomic_fetch_add(&last_rounds, 1, __ATOMIC_RELAXED);
	}
	delete text;
}

static void work(int number)
{
	for (int i = 0; i < 50; i++) {
		early.names[i] = std::string(100, 'n');
		early.blocks.emplace_back(new char[static_cast<size_t>(i) * number + 1]);
	}
	pthread_setspecific(keys[39], new std::string(30, 'k'));
}

int main()
{
	for (pthread_key_t &key : keys)
		REQUIRE(pthread_key_create(&key, destroy) == 0);
	for (int i = 0; i < rounds; i++) {
		std::thread one(work, i), other(work, i + 1);

		one.join();
		other.join();
	}
	REQUIRE(destroyed >= 2 * rounds);
	REQUIRE(last_rounds > 0);
	return 0;
}
