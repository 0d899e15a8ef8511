/* SPDX-License-Identifier: MIT
 *
 * Whether the process that writes a raw file still runs. Called by import.c, which removes the
 * files of those that do not.
 */
#ifndef HEAPLEDGER_RUNNING_H
#define HEAPLEDGER_RUNNING_H

#include <stdbool.h>
#include <stdint.h>

/* `fd` is open for reading alone, `name` is the file's, `pid` the process as its own pid namespace
 * `pid_namespace` (0 = unknown) calls it. In doubt it runs. */
bool running(int fd, const char *name, uint32_t pid, uint64_t pid_namespace);

#endif
