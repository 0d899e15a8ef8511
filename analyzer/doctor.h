/* SPDX-License-Identifier: MIT
 *
 * What the checks of `heapledger doctor` share: doctor.c has the table and what is asked of the
 * machine, doctor_trial.c what is tried with a recorded program.
 */
#ifndef HEAPLEDGER_DOCTOR_H
#define HEAPLEDGER_DOCTOR_H

enum doctor_state { DOCTOR_OK, DOCTOR_LIMITED, DOCTOR_MISSING };

struct finding {
	enum doctor_state state;
	char text[512]; /* what it is, and what to do */
};

void doctor_find(struct finding *finding, enum doctor_state state, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

struct child {
	int status;     /* of waitpid */
	char said[256]; /* the first line of its stdout and stderr */
};

/* Runs a program with `preload` before it, or none. 0 when it exited with 0. */
int doctor_run(struct child *child, char *const argv[], const char *preload);

/* A program is recorded on our allocator, with stacks, then on its own; what the first trial left
 * is there for those that follow, until the end. */
void doctor_record(struct finding *finding);
void doctor_stacks(struct finding *finding);
void doctor_symbols(struct finding *finding);
void doctor_observe(struct finding *finding);
void doctor_trial_end(void);

#endif
