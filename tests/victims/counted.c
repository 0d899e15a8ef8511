/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_alone.py: threads call posix_memalign and free until the
 * process is killed. FILE holds one counter of completed calls a thread.
 *
 *     counted THREADS FILE
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_THREADS 64

static void *forever(void *counter)
{
	_Atomic long *mine = counter;

	for (long i = 0;; i++) {
		void *block;

		if (posix_memalign(&block, 64, (size_t)(i % 1000) + 1) != 0)
			exit(99);
		free(block);
		atomic_store(mine, i + 1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc == 3 ? atoi(argv[1]) : 0;
	int fd = threads > 0 ? open(argv[2], O_RDWR | O_CREAT, 0600) : -1;
	_Atomic long *made;
	pthread_t thread;

	if (threads > MOST_THREADS || fd < 0 || ftruncate(fd, MOST_THREADS * sizeof(long)) != 0)
		return 90;
	made = mmap(NULL, MOST_THREADS * sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (made == MAP_FAILED)
		return 89;
	for (int i = 1; i < threads; i++)
		pthread_create(&thread, NULL, forever, (void *)&made[i]);
	forever((void *)&made[0]);
	return 0;
}
