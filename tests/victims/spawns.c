/* SPDX-License-Identifier: MIT
 *
 * vfork, posix_spawn, system and popen while other threads allocate. The child of vfork shares our
 * memory: it allocates, frees what the parent made and leaves blocks for it.
 */
#include "beside.h"
#include "victim.h"

#include <pthread.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 25

extern char **environ;

static void *churn(void *unused)
{
	while (beside_goes_on())
		free(realloc(opaque(malloc(2000)), 150000));
	return unused;
}

static void wait_for(pid_t child, int expected)
{
	int status;

	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == expected);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void use_vfork(bool run)
{
	char *volatile given = malloc(3000), *volatile left = NULL;
	char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, (char[]){"exit 5"}, NULL};
	pid_t child = vfork();

	if (child == 0) {
		free(given);
		left = malloc(5000);
		if (left != NULL)
			memset(left, 9, 5000);
		if (run)
			execve("/bin/sh", argv, environ);
		_exit(5);
	}
	wait_for(child, 5);
	for (int i = 0; i < 5000; i++)
		REQUIRE(left[i] == 9);
	free(left);
}
#pragma GCC diagnostic pop

static void use_spawn(void)
{
	char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, (char[]){"exit 6"}, NULL};
	posix_spawn_file_actions_t actions;
	pid_t child;

	REQUIRE(posix_spawn_file_actions_init(&actions) == 0);
	for (int i = 0; i < 20; i++)
		REQUIRE(posix_spawn_file_actions_addopen(&actions, 50 + i, "/dev/null", 0, 0) == 0);
	REQUIRE(posix_spawn(&child, "/bin/sh", &actions, NULL, argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	wait_for(child, 6);
	REQUIRE(posix_spawn(&child, "/nonexistent", NULL, NULL, argv, environ) != 0);
}

static void use_pipe(void)
{
	char text[16] = "";
	FILE *stream = popen("echo spoken", "r");

	REQUIRE(stream != NULL);
	REQUIRE(fgets(text, sizeof(text), stream) != NULL && strcmp(text, "spoken\n") == 0);
	REQUIRE(pclose(stream) == 0);
	REQUIRE(WEXITSTATUS(system("exit 4")) == 4);
}

int main(void)
{
	pthread_t threads[3];

	alarm(200);
	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_create(&threads[i], NULL, churn, NULL) == 0);
	for (int i = 0; i < ROUNDS; i++) {
		beside_begin();
		use_vfork(i % 2 == 0);
		beside_begin();
		use_spawn();
		beside_begin();
		use_pipe();
	}
	beside_end();
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
