/* SPDX-License-Identifier: MIT
 *
 * How a heap is set by its environment: policy, tunables (settings.def) and checks. The library
 * reads it in the program (tunables.c), and `heapledger record` beforehand, to say what it finds
 * wrong and what is in effect; both compile interposer/settings.c, so that they cannot disagree.
 *
 * In order, the later above the earlier: MALLOC_*_, GLIBC_TUNABLES, HEAPLEDGER_SET. What is unknown
 * or malformed is reported and otherwise ignored. No allocation, no system call: this runs in the
 * dynamic linker's first call.
 */
#ifndef HEAPLEDGER_SETTINGS_H
#define HEAPLEDGER_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SETTINGS_POLICY_ENV "HEAPLEDGER_POLICY"
#define SETTINGS_SET_ENV "HEAPLEDGER_SET"
#define SETTINGS_CHECK_ENV "HEAPLEDGER_CHECK"

enum hl_policy {
#define HL_POLICY(number, name) HL_POLICY_##name = number,
#include "heapledger/settings.def"
};

/* Values of purge that are no milliseconds. */
#define SETTINGS_PURGE_NEVER UINT64_MAX
#define SETTINGS_PURGE_TRIM (UINT64_MAX - 1)

enum settings_name {
#define HL_SETTING(name, initial, least, most, variable) SETTINGS_##name,
#include "heapledger/settings.def"
	SETTINGS_COUNT
};

struct settings {
	enum hl_policy policy;
	uint64_t check; /* the heap is checked at every n-th call; 0 = never */
	uint64_t value[SETTINGS_COUNT];
	uint32_t given; /* a bit for each that is set, be it to its initial value */
	bool recorded;  /* the environment names a session */
};

/* Something that is ignored: `item` of `bytes` is what stands in `variable`. */
struct settings_fault {
	const char *variable;
	const char *item;
	size_t bytes;
	const char *why;
};

typedef void settings_report(void *context, const struct settings_fault *fault);

/* Reads an environment as execve gives it. `report` may be NULL. */
void settings_read(struct settings *settings, char *const *environment, settings_report *report,
	void *context);

/* One NAME=VALUE of ours. NULL, or why it is no good; then nothing is changed. */
const char *settings_set(struct settings *settings, const char *item, size_t bytes);

/* False if there is no policy of that name. */
bool settings_policy(const char *name, enum hl_policy *policy);

/* The policy that an environment asks for. */
enum hl_policy settings_policy_of(char *const *environment);

const char *settings_policy_name(enum hl_policy policy);
const char *settings_name(enum settings_name name);

#endif
