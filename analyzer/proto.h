/* SPDX-License-Identifier: MIT
 *
 * Messages in Protocol Buffers' wire format, field by field. Only what profile.proto needs: a
 * library for it would need a compiler of its own at each build, and this is three functions. Used
 * by export_pprof.c.
 */
#ifndef HEAPLEDGER_PROTO_H
#define HEAPLEDGER_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero is an empty message. */
struct proto {
	uint8_t *bytes;
	size_t used;
	size_t room;
	bool failed; /* no memory: sticks */
};

/* An integer without a field: an element of a packed list. */
void proto_varint(struct proto *message, uint64_t value);

/* int64, uint64 or bool. 0 is what a field that is not there has. */
void proto_integer(struct proto *message, unsigned field, uint64_t value);

/* A string, a message or a packed list. */
void proto_bytes(struct proto *message, unsigned field, const void *bytes, size_t length);

void proto_free(struct proto *message);

#endif
