/* SPDX-License-Identifier: MIT
 *
 * See unwind.h. The tables are those of the Linux Standard Base, "Exception Frames": a sorted index
 * (.eh_frame_hdr), entries for functions (FDE), what those have in common (CIE); their programs are
 * of DWARF 5, 6.4.2. All reads are checked against the segment.
 */
#include "unwind.h"

#include <stddef.h>
#include <string.h>

#define REG_FP 6
#define REG_SP 7
#define REG_RA 16
#define REMEMBERED 8 /* DW_CFA_remember_state, one in another */

/* How addresses are written: the format in the low half, what it is relative to in the high one. */
#define ENC_UDATA4 0x03
#define ENC_UDATA8 0x04
#define ENC_SDATA4 0x0b
#define ENC_SDATA8 0x0c
#define ENC_ABSOLUTE 0x00
#define ENC_PCREL 0x10
#define ENC_DATAREL 0x30
#define ENC_FORMAT(encoding) ((encoding)&0x0f)
#define ENC_BASE(encoding) ((encoding)&0x70)
#define ENC_INDEX (ENC_DATAREL | ENC_SDATA4) /* the only form of index that linkers make */

#define OP_BREG_FP 0x76
#define OP_DEREF 0x06

/* A run of bytes that is read from its start. After a read beyond its end `bad` is set, and
 * everything read is 0. */
struct unwind_bytes {
	const uint8_t *at, *end;
	bool bad;
};

struct unwind_cie {
	uint64_t code_align;
	int64_t data_align;
	uint8_t encoding; /* of the FDEs' addresses */
	bool augmented;
	bool signal;
	struct unwind_bytes program;
};

/* One row of the table that a program describes. */
struct unwind_row {
	struct unwind_rule rule;
	uint64_t cfa_register;
	bool expression; /* the CFA is of an expression, so its register and offset do not count */
	bool ra_end, ra_odd;
};

static struct unwind_bytes unwind_from(const struct unwind_tables *tables, const uint8_t *at)
{
	bool inside = at >= tables->start && at < tables->end;

	return (struct unwind_bytes){.at = at, .end = inside ? tables->end : at, .bad = !inside};
}

static const uint8_t *unwind_skip(struct unwind_bytes *bytes, uint64_t count)
{
	const uint8_t *at = bytes->at;

	if (count > (uint64_t)(bytes->end - bytes->at)) {
		bytes->bad = true;
		bytes->at = bytes->end;
		return NULL;
	}
	bytes->at += count;
	return at;
}

static uint64_t unwind_uint(struct unwind_bytes *bytes, unsigned size)
{
	const uint8_t *at = unwind_skip(bytes, size);
	uint64_t value = 0;

	if (at != NULL)
		for (unsigned i = 0; i < size; i++)
			value |= (uint64_t)at[i] << 8 * i;
	return value;
}

static inline unsigned unwind_byte(struct unwind_bytes *bytes)
{
	if (bytes->at < bytes->end)
		return *bytes->at++;
	bytes->bad = true;
	return 0;
}

static uint64_t unwind_uleb(struct unwind_bytes *bytes)
{
	uint64_t value = 0, byte;
	unsigned shift = 0;

	if (bytes->at < bytes->end && *bytes->at < 0x80)
		return *bytes->at++;

	do {
		byte = unwind_byte(bytes);
		if (shift < 64)
			value |= (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	return value;
}

static int64_t unwind_sleb(struct unwind_bytes *bytes)
{
	uint64_t value = 0, byte;
	unsigned shift = 0;

	do {
		byte = unwind_byte(bytes);
		if (shift < 64)
			value |= (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	if (shift < 64 && byte & 0x40)
		value |= ~UINT64_C(0) << shift;
	return (int64_t)value;
}

/* An address, or without `relative` a length in the same format. */
static uint64_t unwind_encoded(struct unwind_bytes *bytes, unsigned encoding, bool relative)
{
	uint64_t place = (uint64_t)(uintptr_t)bytes->at, value;

	switch (ENC_FORMAT(encoding)) {
	case ENC_UDATA4:
		value = unwind_uint(bytes, 4);
		break;
	case ENC_SDATA4:
		value = (uint64_t)(int64_t)(int32_t)unwind_uint(bytes, 4);
		break;
	case ENC_ABSOLUTE:
	case ENC_UDATA8:
	case ENC_SDATA8:
		value = unwind_uint(bytes, 8);
		break;
	default:
		bytes->bad = true;
		return 0;
	}
	if (!relative || ENC_BASE(encoding) == ENC_ABSOLUTE)
		return value;
	if (ENC_BASE(encoding) != ENC_PCREL)
		bytes->bad = true;
	return place + value;
}

/* The entry of a CIE or FDE at `at`, without its length. */
static struct unwind_bytes unwind_entry(const struct unwind_tables *tables, const uint8_t *at)
{
	struct unwind_bytes bytes = unwind_from(tables, at);
	uint64_t length = unwind_uint(&bytes, 4);

	if (length == 0 || length >= 0xfffffff0 || length > (uint64_t)(bytes.end - bytes.at))
		bytes.bad = true;
	else
		bytes.end = bytes.at + length;
	return bytes;
}

static void unwind_augmentation(
	struct unwind_cie *cie, struct unwind_bytes *bytes, const char *letters, size_t count)
{
	cie->augmented = true;
	for (size_t i = 1; i < count; i++) {
		switch (letters[i]) {
		case 'R':
			cie->encoding = (uint8_t)unwind_uint(bytes, 1);
			break;
		case 'L':
			unwind_uint(bytes, 1);
			break;
		case 'P':
			unwind_encoded(bytes, (unsigned)unwind_uint(bytes, 1) & 0x0f, false);
			break;
		case 'S':
			cie->signal = true;
			break;
		case 'B':
			break;
		default:
			bytes->bad = true;
		}
	}
}

static bool unwind_read_cie(
	const struct unwind_tables *tables, const uint8_t *at, struct unwind_cie *cie)
{
	struct unwind_bytes bytes = unwind_entry(tables, at), extra;
	const char *letters;
	uint64_t version, ra;
	size_t count = 0;

	if (unwind_uint(&bytes, 4) != 0)
		return false;
	version = unwind_uint(&bytes, 1);
	letters = (const char *)bytes.at;
	while (unwind_uint(&bytes, 1) != 0)
		count++;
	cie->code_align = unwind_uleb(&bytes);
	cie->data_align = unwind_sleb(&bytes);
	ra = version == 1 ? unwind_uint(&bytes, 1) : unwind_uleb(&bytes);
	if (bytes.bad || (version != 1 && version != 3) || ra != REG_RA)
		return false;
	if (count > 0) {
		uint64_t length = unwind_uleb(&bytes);

		extra = bytes;
		if (letters[0] != 'z' || unwind_skip(&bytes, length) == NULL)
			return false;
		unwind_augmentation(cie, &extra, letters, count);
		if (extra.bad)
			return false;
	}
	cie->program = bytes;
	return !bytes.bad;
}

static void unwind_saved(struct unwind_row *row, uint64_t number, int64_t offset)
{
	if (number == REG_RA) {
		row->ra_odd = offset != -8;
		row->ra_end = false;
	}
	if (number != REG_FP)
		return;
	row->rule.fp_offset = (int16_t)offset;
	row->rule.fp = offset == row->rule.fp_offset ? UNWIND_FP_AT_CFA : UNWIND_FP_LOST;
}

static void unwind_restored(
	struct unwind_row *row, uint64_t number, const struct unwind_row *initial)
{
	if (number == REG_RA) {
		row->ra_odd = initial->ra_odd;
		row->ra_end = initial->ra_end;
	}
	if (number == REG_FP) {
		row->rule.fp = initial->rule.fp;
		row->rule.fp_offset = initial->rule.fp_offset;
	}
}

/* Kept, lost, or for the return address "there is none". */
static void unwind_not_saved(struct unwind_row *row, uint64_t number, enum unwind_fp fp)
{
	if (number == REG_FP)
		row->rule.fp = (uint8_t)fp;
	if (number == REG_RA) {
		row->ra_end = fp == UNWIND_FP_LOST;
		row->ra_odd = fp != UNWIND_FP_LOST;
	}
}

static void unwind_cfa(struct unwind_row *row, uint64_t number, int64_t offset)
{
	row->expression = false;
	row->cfa_register = number;
	row->rule.cfa_offset = (int32_t)offset;
	if (offset != row->rule.cfa_offset)
		row->cfa_register = UINT64_MAX;
}

/* Where stacks are realigned, the CFA is the word at rbp - n; nothing else is understood. */
static void unwind_cfa_expression(struct unwind_row *row, struct unwind_bytes *bytes)
{
	uint64_t length = unwind_uleb(bytes);
	struct unwind_bytes code = {.at = bytes->at};

	if (unwind_skip(bytes, length) == NULL)
		return;
	code.end = bytes->at;
	row->expression = true;
	row->rule.cfa = UNWIND_NONE;
	if (unwind_uint(&code, 1) != OP_BREG_FP)
		return;
	row->rule.cfa_offset = (int32_t)unwind_sleb(&code);
	if (unwind_uint(&code, 1) == OP_DEREF && !code.bad && code.at == code.end)
		row->rule.cfa = UNWIND_FP_WORD;
}

/* A register saved at an address of its own: rbp + n for rbp goes with realigned stacks. */
static void unwind_expression(struct unwind_row *row, struct unwind_bytes *bytes, bool is_value)
{
	uint64_t number = unwind_uleb(bytes), length = unwind_uleb(bytes);
	struct unwind_bytes code = {.at = bytes->at};
	int64_t offset;

	if (unwind_skip(bytes, length) == NULL)
		return;
	code.end = bytes->at;
	if (number == REG_RA)
		row->ra_odd = true;
	if (number != REG_FP)
		return;
	row->rule.fp = UNWIND_FP_LOST;
	if (is_value || unwind_uint(&code, 1) != OP_BREG_FP)
		return;
	offset = unwind_sleb(&code);
	if (code.bad || code.at != code.end || offset != (int16_t)offset)
		return;
	row->rule.fp = UNWIND_FP_AT_FP;
	row->rule.fp_offset = (int16_t)offset;
}

struct unwind_run {
	const struct unwind_cie *cie;
	const struct unwind_row *initial;
	uintptr_t location, place;
	struct unwind_row saved[REMEMBERED];
	unsigned depth;
};

/* The instructions whose number is in all eight bits; returns false for one that is not known. */
static bool unwind_extended(
	struct unwind_run *run, struct unwind_row *row, struct unwind_bytes *bytes, unsigned code)
{
	int64_t scale = run->cie->data_align;
	uint64_t number;

	switch (code) {
	case 0x00: /* nop */
		return true;
	case 0x01: /* set_loc */
		run->location = unwind_encoded(bytes, run->cie->encoding, true);
		return true;
	case 0x02: /* advance_loc1, 2, 4 */
	case 0x03:
	case 0x04:
		run->location += unwind_uint(bytes, 1u << (code - 2)) * run->cie->code_align;
		return true;
	case 0x05: /* offset_extended */
		number = unwind_uleb(bytes);
		unwind_saved(row, number, (int64_t)unwind_uleb(bytes) * scale);
		return true;
	case 0x06: /* restore_extended */
		unwind_restored(row, unwind_uleb(bytes), run->initial);
		return true;
	case 0x07: /* undefined */
		unwind_not_saved(row, unwind_uleb(bytes), UNWIND_FP_LOST);
		return true;
	case 0x08: /* same_value */
		unwind_not_saved(row, unwind_uleb(bytes), UNWIND_FP_KEPT);
		return true;
	case 0x09: /* register */
		number = unwind_uleb(bytes);
		unwind_uleb(bytes);
		if (number == REG_FP)
			row->rule.fp = UNWIND_FP_LOST;
		row->ra_odd |= number == REG_RA;
		return true;
	case 0x0a: /* remember_state */
		if (run->depth >= REMEMBERED)
			return false;
		run->saved[run->depth++] = *row;
		return true;
	case 0x0b: /* restore_state */
		if (run->depth == 0)
			return false;
		*row = run->saved[--run->depth];
		return true;
	case 0x0c: /* def_cfa */
		number = unwind_uleb(bytes);
		unwind_cfa(row, number, (int64_t)unwind_uleb(bytes));
		return true;
	case 0x0d: /* def_cfa_register */
		unwind_cfa(row, unwind_uleb(bytes), row->rule.cfa_offset);
		return true;
	case 0x0e: /* def_cfa_offset */
		unwind_cfa(row, row->cfa_register, (int64_t)unwind_uleb(bytes));
		return true;
	case 0x0f:
		unwind_cfa_expression(row, bytes);
		return true;
	case 0x10: /* expression */
	case 0x16: /* val_expression */
		unwind_expression(row, bytes, code == 0x16);
		return true;
	case 0x11: /* offset_extended_sf */
		number = unwind_uleb(bytes);
		unwind_saved(row, number, unwind_sleb(bytes) * scale);
		return true;
	case 0x12: /* def_cfa_sf */
		number = unwind_uleb(bytes);
		unwind_cfa(row, number, unwind_sleb(bytes) * scale);
		return true;
	case 0x13: /* def_cfa_offset_sf */
		unwind_cfa(row, row->cfa_register, unwind_sleb(bytes) * scale);
		return true;
	case 0x14: /* val_offset, val_offset_sf */
	case 0x15:
		number = unwind_uleb(bytes);
		unwind_uleb(bytes);
		if (number == REG_FP)
			row->rule.fp = UNWIND_FP_LOST;
		row->ra_odd |= number == REG_RA;
		return true;
	case 0x2e: /* GNU_args_size */
		unwind_uleb(bytes);
		return true;
	default:
		return false;
	}
}

/* Up to the row for run->place: until the location, which no other instruction changes, is beyond.
 * A function's program is longer than the rest of its entry by far, so this loop is what counts. */
static bool unwind_execute(
	struct unwind_run *run, struct unwind_row *row, struct unwind_bytes bytes)
{
	while (bytes.at < bytes.end && !bytes.bad && run->location <= run->place) {
		unsigned code = unwind_byte(&bytes), low = code & 0x3f;

		switch (code >> 6) {
		case 1: /* advance_loc */
			run->location += low * run->cie->code_align;
			break;
		case 2: /* offset */
			unwind_saved(row, low, (int64_t)unwind_uleb(&bytes) * run->cie->data_align);
			break;
		case 3: /* restore */
			unwind_restored(row, low, run->initial);
			break;
		default:
			if (!unwind_extended(run, row, &bytes, code))
				return false;
		}
	}
	return !bytes.bad;
}

static struct unwind_rule unwind_conclude(const struct unwind_row *row, bool signal)
{
	struct unwind_rule rule = row->rule;

	if (signal)
		return (struct unwind_rule){.cfa = UNWIND_SIGNAL};
	if (row->ra_end)
		return (struct unwind_rule){.cfa = UNWIND_END};
	if (row->ra_odd)
		return (struct unwind_rule){0};
	if (!row->expression)
		rule.cfa = row->cfa_register == REG_SP   ? UNWIND_SP
			   : row->cfa_register == REG_FP ? UNWIND_FP
							 : UNWIND_NONE;
	return rule;
}

/* The FDE for a place, by the index; NULL if there is none. Two words an entry, both relative to
 * the index: where a function starts, and its FDE. */
static const uint8_t *unwind_lookup(const struct unwind_tables *tables, uintptr_t place)
{
	struct unwind_bytes bytes = unwind_from(tables, tables->index), entry;
	uint64_t version = unwind_uint(&bytes, 1), frames = unwind_uint(&bytes, 1);
	uint64_t counts = unwind_uint(&bytes, 1), form = unwind_uint(&bytes, 1);
	uint64_t count, low = 0, high;

	unwind_encoded(&bytes, (unsigned)frames & 0x0f, false);
	count = unwind_encoded(&bytes, (unsigned)counts, false);
	if (bytes.bad || version != 1 || form != ENC_INDEX || counts != ENC_UDATA4 ||
		count > (uint64_t)(bytes.end - bytes.at) / 8)
		return NULL;
	high = count;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		int32_t start;

		memcpy(&start, bytes.at + 8 * middle, sizeof(start));
		if ((uintptr_t)tables->index + (uintptr_t)(intptr_t)start <= place)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	entry = bytes;
	entry.at += 8 * (low - 1) + 4;
	return tables->index + (int32_t)unwind_uint(&entry, 4);
}

struct unwind_rule unwind_find(const struct unwind_tables *tables, uintptr_t place)
{
	const struct unwind_rule none = {0};
	struct unwind_cie cie = {0};
	struct unwind_row row = {.cfa_register = UINT64_MAX, .ra_odd = true}, initial = {0};
	struct unwind_run run = {.cie = &cie, .initial = &initial, .place = place};
	const uint8_t *at = unwind_lookup(tables, place), *back;
	struct unwind_bytes bytes;
	uintptr_t begin, length;

	if (at == NULL)
		return none;
	bytes = unwind_entry(tables, at);
	back = bytes.at;
	back -= unwind_uint(&bytes, 4);
	if (bytes.bad || !unwind_read_cie(tables, back, &cie))
		return none;
	begin = unwind_encoded(&bytes, cie.encoding, true);
	length = unwind_encoded(&bytes, cie.encoding, false);
	if (cie.augmented)
		unwind_skip(&bytes, unwind_uleb(&bytes));
	if (bytes.bad || place - begin >= length)
		return none;
	run.location = 0;
	if (!unwind_execute(&run, &row, cie.program))
		return none;
	initial = row;
	run.location = begin;
	if (!unwind_execute(&run, &row, bytes))
		return none;
	return unwind_conclude(&row, cie.signal);
}
