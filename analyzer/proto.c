/* SPDX-License-Identifier: MIT
 *
 * See proto.h.
 */
#include "proto.h"

#include <stdlib.h>
#include <string.h>

enum wire { WIRE_VARINT = 0, WIRE_LENGTH = 2 };

static void append(struct proto *message, const void *bytes, size_t length)
{
	if (message->room - message->used < length) {
		size_t room = (message->used + length) * 2;
		uint8_t *moved = realloc(message->bytes, room);
		if (!moved) {
			message->failed = true;
			return;
		}
		message->bytes = moved;
		message->room = room;
	}
	if (length)
		memcpy(message->bytes + message->used, bytes, length);
	message->used += length;
}

void proto_varint(struct proto *message, uint64_t value)
{
	uint8_t bytes[10];
	size_t length = 0;
	for (; value >= 0x80; value >>= 7)
		bytes[length++] = (uint8_t)(value | 0x80);
	bytes[length++] = (uint8_t)value;
	append(message, bytes, length);
}

void proto_integer(struct proto *message, unsigned field, uint64_t value)
{
	if (!value)
		return;
	proto_varint(message, (uint64_t)field << 3 | WIRE_VARINT);
	proto_varint(message, value);
}

void proto_bytes(struct proto *message, unsigned field, const void *bytes, size_t length)
{
	proto_varint(message, (uint64_t)field << 3 | WIRE_LENGTH);
	proto_varint(message, length);
	append(message, bytes, length);
}

void proto_free(struct proto *message)
{
	free(message->bytes);
	*message = (struct proto){0};
}
