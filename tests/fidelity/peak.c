/* SPDX-License-Identifier: MIT
 *
 * peak FILE PROGRAM ARGUMENT...: runs the program and writes the largest peak RSS, in KiB, of it
 * and of its descendants to FILE. Started by fidelity.py, whose own size would otherwise be the
 * floor: what a process held before exec counts towards its ru_maxrss, so it must be started from a
 * small one.
 */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage usage;
	FILE *file;
	pid_t pid;
	int status;

	if (argc < 3) {
		fprintf(stderr, "usage: peak FILE PROGRAM ARGUMENT...\n");
		return 2;
	}
	pid = fork();
	if (pid == 0) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
		perror("peak");
		return 2;
	}
	file = fopen(argv[1], "w");
	if (file == NULL || fprintf(file, "%ld\n", usage.ru_maxrss) < 0 || fclose(file) != 0) {
		perror(argv[1]);
		return 2;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
