/* SPDX-License-Identifier: MIT
 *
 * How the program's heap is set: --policy and --set go to its environment, above what stands there
 * already. Called by cmd_record.c before anything is started.
 */
#ifndef HEAPLEDGER_RECORD_TUNING_H
#define HEAPLEDGER_RECORD_TUNING_H

#include "heapledger/settings.h"

/* An option's argument, into our own environment, which the program inherits. 0, or an exit code
 * after it was said what is wrong. */
int tuning_policy(const char *policy);
int tuning_set(const char *item);

/* What is in effect, and the variable that each setting which is given comes from; says on stderr what
 * is ignored, for the program and all its children. */
void tuning_read(struct settings *settings, const char *given_by[SETTINGS_COUNT]);

#endif
