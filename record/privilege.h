/* SPDX-License-Identifier: MIT
 *
 * What the recorder may do, and for whom: it is the user who asked for root only to record, and
 * holds a privilege for as long as it needs it. Called by the commands, record first of all; the
 * program that is recorded gets nothing from here.
 */
#ifndef HEAPLEDGER_RECORD_PRIVILEGE_H
#define HEAPLEDGER_RECORD_PRIVILEGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum privilege_reach {
	PRIVILEGE_OWN, /* a program that we start */
	PRIVILEGE_ANY, /* one that runs already, whoever's it is: root was asked for that, too */
};

/* Where sudo, doas or pkexec made us root, becomes the user who called it, for good: user, groups
 * and environment. Capabilities that the probe and the reach need stay permitted, and no user but
 * root has any in effect. *caller is the name of that user, or NULL. 0, or -1 and a line in `why`.
 */
int privilege_begin(enum privilege_reach reach, const char **caller, char *why, size_t why_bytes);

/* What is permitted is in effect, or nothing is. */
void privilege_raise(void);
void privilege_lower(void);

/* What a recording still needs. */
struct privilege_needs {
	pid_t program;
	int directory; /* where files are to be made */
	bool memory;   /* of the program in /proc */
	bool probe;    /* the kernel asks for CAP_BPF at each of its calls */
};

/* Gives up for good all that the recording can do without. Before there are other threads. */
int privilege_settle(const struct privilege_needs *needs);

/* Gives up everything, unless we are root. */
int privilege_give_up(void);

#endif
