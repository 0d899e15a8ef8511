/* SPDX-License-Identifier: MIT
 *
 * Unwind tables that are wrong: the C library's, with bytes changed, in memory of exactly their
 * size. Under AddressSanitizer no read may leave it. What the rules are when nothing is wrong is
 * for test_stacks.py.
 */
#include "unwind.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#define PLACES 400
#define CHANGES 200000

struct tables {
	struct unwind_tables real;
	uintptr_t code, code_end;
};

static int find_libc(struct dl_phdr_info *info, size_t size, void *argument)
{
	struct tables *tables = argument;
	const uint8_t *base = (const uint8_t *)info->dlpi_addr;

	(void)size;
	if (strstr(info->dlpi_name, "/libc.so") == NULL)
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME)
			tables->real.index = base + info->dlpi_phdr[i].p_vaddr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		const uint8_t *start = base + header->p_vaddr;

		if (header->p_type != PT_LOAD)
			continue;
		if (header->p_flags & PF_X) {
			tables->code = (uintptr_t)start;
			tables->code_end = (uintptr_t)start + header->p_filesz;
		} else if (tables->real.index >= start &&
			   tables->real.index < start + header->p_filesz) {
			tables->real.start = start;
			tables->real.end = start + header->p_filesz;
		}
	}
	return 1;
}

static struct tables of_libc(void)
{
	struct tables tables = {0};

	dl_iterate_phdr(find_libc, &tables);
	assert_non_null(tables.real.index);
	assert_non_null(tables.real.start);
	return tables;
}

/* Everything in the tables is relative to where it stands, so a copy describes code that lies as
 * far away as the copy does. */
static struct unwind_tables copy(const struct tables *tables, uint8_t *bytes)
{
	size_t size = (size_t)(tables->real.end - tables->real.start);

	memcpy(bytes, tables->real.start, size);
	return (struct unwind_tables){
		.index = bytes + (tables->real.index - tables->real.start),
		.start = bytes,
		.end = bytes + size,
	};
}

static uintptr_t random_place(const struct tables *tables)
{
	return tables->code + (uintptr_t)random() % (tables->code_end - tables->code);
}

static void same_rules_in_a_copy(void **state)
{
	struct tables tables = of_libc();
	uint8_t *bytes = malloc((size_t)(tables.real.end - tables.real.start));
	struct unwind_tables other = copy(&tables, bytes);
	unsigned found = 0;

	(void)state;
	srandom(1);
	for (int i = 0; i < PLACES; i++) {
		uintptr_t place = random_place(&tables);
		struct unwind_rule real = unwind_find(&tables.real, place);
		struct unwind_rule mine = unwind_find(
			&other, place + (uintptr_t)bytes - (uintptr_t)tables.real.start);

		assert_memory_equal(&real, &mine, sizeof(real));
		found += real.cfa == UNWIND_SP || real.cfa == UNWIND_FP;
	}
	assert_true(found > PLACES / 2);
	free(bytes);
}

static void assert_sound(struct unwind_rule rule)
{
	assert_true(rule.cfa <= UNWIND_SIGNAL);
	assert_true(rule.fp <= UNWIND_FP_LOST);
}

static void changed_bytes(void **state)
{
	struct tables tables = of_libc();
	size_t size = (size_t)(tables.real.end - tables.real.start);
	uint8_t *bytes = malloc(size);
	struct unwind_tables other = copy(&tables, bytes);

	(void)state;
	srandom(2);
	for (int i = 0; i < CHANGES; i++) {
		size_t at = (size_t)random() % size;

		if (i % 1000 == 0)
			other = copy(&tables, bytes);
		bytes[at] = (uint8_t)random();
		assert_sound(unwind_find(&other,
			random_place(&tables) + (uintptr_t)bytes - (uintptr_t)tables.real.start));
	}
	free(bytes);
}

/* The index first, whose every byte is looked at. */
static void changed_index(void **state)
{
	struct tables tables = of_libc();
	uint8_t *bytes = malloc((size_t)(tables.real.end - tables.real.start));

	(void)state;
	srandom(3);
	for (int i = 0; i < 1000; i++) {
		struct unwind_tables other = copy(&tables, bytes);
		uint8_t *index = bytes + (other.index - bytes);

		for (int j = 0; j < 3; j++)
			index[random() % 64] = (uint8_t)random();
		assert_sound(unwind_find(&other,
			random_place(&tables) + (uintptr_t)bytes - (uintptr_t)tables.real.start));
	}
	free(bytes);
}

static void cut_tables(void **state)
{
	struct tables tables = of_libc();
	size_t size = (size_t)(tables.real.end - tables.real.start);

	(void)state;
	srandom(4);
	for (size_t length = 0; length < size; length += 1 + length / 50) {
		uint8_t *bytes = malloc(length ? length : 1);
		struct unwind_tables other = {
			.index = bytes + (tables.real.index - tables.real.start),
			.start = bytes,
			.end = bytes + length,
		};

		memcpy(bytes, tables.real.start, length);
		for (int i = 0; i < 50; i++)
			assert_sound(unwind_find(&other, random_place(&tables) + (uintptr_t)bytes -
								 (uintptr_t)tables.real.start));
		free(bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_rules_in_a_copy),
		cmocka_unit_test(changed_bytes),
		cmocka_unit_test(changed_index),
		cmocka_unit_test(cut_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
