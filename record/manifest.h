/* SPDX-License-Identifier: MIT
 *
 * session.json of a trace directory (docs/trace-format.md): what was recorded, how, and how it
 * ended. Called by cmd_record.c, once before the program runs and once at the end, and by imports.
 */
#ifndef HEAPLEDGER_RECORD_MANIFEST_H
#define HEAPLEDGER_RECORD_MANIFEST_H

#include "collector.h"
#include "kernel.h"

#include "bpf/allocator.h"

#include "heapledger/settings.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct manifest {
	const struct collector *collector;
	const struct kernel *kernel;
	char **command;
	const struct settings *settings; /* the program's, as it is started; NULL: it is observed */
	const char *const *given_by; /* for each setting who gave it; NULL: not known */
	const char *on_full;             /* options as given or by default */
	const char *kernel_mode;
	uint64_t buffer_bytes;
	const struct manifest_attach *attach; /* NULL: the program was started by us */
	bool finished;
};

/* What is said of a process that ran before. */
struct manifest_attach {
	bool calls;                              /* of its allocator are recorded, ... */
	const char *allocator;                   /* ... which is in this file */
	bool operators_missing;                  /* new and delete of its own, which are not */
	const struct allocator_account *account; /* once it is known */
};

/* Replaces the file as a whole. 0 or -errno. */
int manifest_write(const struct manifest *manifest);

/* What that writes; and writing it, changed or not. NULL or -errno when it fails. */
json_t *manifest_build(const struct manifest *manifest);
int manifest_replace(int dirfd, const json_t *root);

/* Any bytes as a string: those that are not UTF-8 become U+FFFD. */
json_t *manifest_text(const char *bytes, size_t length);

/* Adds a sentence to an array of notes. */
void manifest_note(json_t *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
