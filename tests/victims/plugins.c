/* SPDX-License-Identifier: MIT
 *
 *     plugins MODULE MODULE
 *
 * Loads and unloads C++ libraries over and over, from several threads at the same time; what a
 * module makes is freed here, after it is gone. Then once in a namespace of its own, where it has
 * the C library's allocator and shares the break with us.
 */
#include "victim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS 40
#define THREADS 3

static char **modules;

static char *use(void *module, int number)
{
	void *(*work)(int);
	char *block;

	REQUIRE(module != NULL);
	*(void **)&work = dlsym(module, "module_work");
	REQUIRE(work != NULL);
	block = work(number);
	for (int i = 0; i < 1000; i++)
		REQUIRE(block[i] == (char)number);
	REQUIRE(dlsym(module, "no_such_symbol") == NULL && dlerror() != NULL);
	return block;
}

static void *load_often(void *first)
{
	for (int i = 0; i < ROUNDS; i++) {
		int number = i + (int)(size_t)first;
		void *module = dlopen(modules[number % 2], RTLD_NOW);
		char *block = use(module, number);

		REQUIRE(dlclose(module) == 0);
		for (int j = 0; j < 1000; j++)
			REQUIRE(block[j] == (char)number);
		free(block);
		REQUIRE(dlopen("/nonexistent/module.so", RTLD_NOW) == NULL && dlerror() != NULL);
	}
	return NULL;
}

static void use_namespace(void)
{
	void *module = dlmopen(LM_ID_NEWLM, modules[0], RTLD_NOW);
	char *block[50];

	for (int i = 0; i < 50; i++) {
		block[i] = malloc(30000);
		memset(block[i], i, 30000);
		use(module, i); /* another allocator's: never freed here */
	}
	for (int i = 0; i < 50; i++) {
		for (int j = 0; j < 30000; j++)
			REQUIRE(block[i][j] == (char)i);
		free(block[i]);
	}
	REQUIRE(dlclose(module) == 0);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	REQUIRE(argc == 3);
	alarm(100);
	modules = argv + 1;
	load_often(NULL);
	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], NULL, load_often, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	use_namespace();
	return 0;
}
