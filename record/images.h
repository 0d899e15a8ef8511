/* SPDX-License-Identifier: MIT
 *
 * Program images that ran beside the recording: the kernel saw the exec, and no stream began after
 * it. Called by record and the manifest when the recording is over.
 */
#ifndef HEAPLEDGER_RECORD_IMAGES_H
#define HEAPLEDGER_RECORD_IMAGES_H

#include "kernel.h"
#include "processes.h"

/* Puts a sentence that counts and names them into `text`, of 128 bytes at least, fit for a terminal.
 * False when there are none, or it is not known: without the kernel's side, or with processes in
 * another pid namespace. */
bool images_tell_unrecorded(char *text, size_t bytes, const struct kernel *kernel,
	const struct processes *all);

/* The same of processes whose calls of malloc went to one that the program defines. */
bool images_tell_elsewhere(char *text, size_t bytes, const struct processes *all);

#endif
