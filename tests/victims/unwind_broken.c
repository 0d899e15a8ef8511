/* SPDX-License-Identifier: MIT
 *
 *     unwind_broken
 *
 * Allocates beneath functions whose unwind tables are missing, lie, or point into nothing. The
 * program itself is sound; whoever follows the tables is not, unless it looks where it steps.
 * Writes "done" at the end. For test_stacks.py.
 */
#include "victim.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

static int next_size = 20000;
static void *kept[64];

void allocate(void);
__attribute__((noinline, used)) void allocate(void)
{
	kept[next_size % 64] = malloc((size_t)next_size);
	REQUIRE(kept[next_size % 64] != NULL);
	next_size++;
}

/* Each calls allocate; `tables` says something else of its frame than what is so. */
#define FUNCTION(name, tables)                                                                     \
	void name(void);                                                                           \
	__asm__(".text\n.type " #name ", @function\n" #name ":\n" tables                           \
		"\tsub $8, %rsp\n\tcall allocate\n\tadd $8, %rsp\n\tret\n"                         \
		"\t.cfi_endproc\n.size " #name ", .-" #name "\n")

FUNCTION(far_away, "\t.cfi_startproc\n\t.cfi_def_cfa_offset 1073741824\n");
FUNCTION(backwards, "\t.cfi_startproc\n\t.cfi_def_cfa_offset -4096\n");
FUNCTION(odd, "\t.cfi_startproc\n\t.cfi_def_cfa_offset 13\n");
FUNCTION(other_register, "\t.cfi_startproc\n\t.cfi_def_cfa %rbx, 16\n");
FUNCTION(wild_fp, "\t.cfi_startproc\n\t.cfi_def_cfa %rbp, 16\n");
FUNCTION(far_fp, "\t.cfi_startproc\n\t.cfi_def_cfa %rbp, 1073741824\n");
FUNCTION(itself, "\t.cfi_startproc\n\t.cfi_def_cfa_offset 8\n");
FUNCTION(expression, "\t.cfi_startproc\n\t.cfi_escape 0x0f, 0x03, 0x76, 0x00, 0x06\n");

void no_tables(void);
__asm__(".text\n.type no_tables, @function\nno_tables:\n"
	"\tsub $8, %rsp\n\tcall allocate\n\tadd $8, %rsp\n\tret\n.size no_tables, .-no_tables\n");

/* With a frame pointer that is nowhere. */
static void with_fp(void (*function)(void), uintptr_t fp)
{
	__asm__ volatile("push %%rbp\n\tmov %1, %%rbp\n\tsub $8, %%rsp\n\tcall *%0\n\t"
			 "add $8, %%rsp\n\tpop %%rbp"
			 :
			 : "b"(function), "a"(fp)
			 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

int main(void)
{
	void (*const functions[])(void) = {far_away, backwards, odd, other_register, wild_fp,
		itself, expression, far_fp, no_tables};

	for (int round = 0; round < 2; round++)
		for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
			functions[i]();
			with_fp(functions[i], 8);
			with_fp(functions[i], UINTPTR_MAX - 7);
			with_fp(functions[i], (uintptr_t)1 << 62);
		}
	REQUIRE(write(STDOUT_FILENO, "done\n", 5) == 5);
	return 0;
}
