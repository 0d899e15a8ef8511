/* SPDX-License-Identifier: MIT
 *
 * See elsewhere.h. The dynamic linker has bound a call of malloc in this library where it binds
 * everybody's; the library is linked with -z now, so it has done so before anything here runs. The
 * address of malloc would not do: in a program that takes it, it can be that of the program's own
 * table of calls. Another library may have the calls, too: one that was preloaded earlier, which as
 * a rule passes them on.
 */
#include "elsewhere.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>

extern const char __ehdr_start[] __attribute__((visibility("hidden")));

/* By a name of its own, so that the compiler does not take it for the one that is defined here. */
extern void *malloc_as_bound(size_t size) __asm__("malloc");

/* Never called: there must be such a call. */
__attribute__((used)) static void *call_malloc(size_t size)
{
	return malloc_as_bound(size);
}

struct bindings {
	const ElfW(Rela) * calls, *addresses;
	size_t call_bytes, address_bytes;
	const ElfW(Sym) * symbols;
	const char *names;
};

static struct bindings find_bindings(void)
{
	struct bindings found = {0};

	for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
		const void *at = (const void *)entry->d_un.d_ptr;

		if (entry->d_tag == DT_JMPREL)
			found.calls = at;
		else if (entry->d_tag == DT_PLTRELSZ)
			found.call_bytes = entry->d_un.d_val;
		else if (entry->d_tag == DT_RELA)
			found.addresses = at;
		else if (entry->d_tag == DT_RELASZ)
			found.address_bytes = entry->d_un.d_val;
		else if (entry->d_tag == DT_SYMTAB)
			found.symbols = at;
		else if (entry->d_tag == DT_STRTAB)
			found.names = at;
	}
	return found;
}

/* 0: it is not in this list. */
static uint64_t find_in(const struct bindings *bindings, const ElfW(Rela) * list, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(*list); i++) {
		const ElfW(Sym) *symbol = &bindings->symbols[ELF64_R_SYM(list[i].r_info)];

		if (strcmp(bindings->names + symbol->st_name, "malloc") == 0)
			return *(const uint64_t *)(__ehdr_start + list[i].r_offset);
	}
	return 0;
}

/* Where a call of malloc goes. Compiled with -fno-plt, calls are by address. */
static uint64_t find_malloc(void)
{
	struct bindings bindings = find_bindings();
	uint64_t at = find_in(&bindings, bindings.calls, bindings.call_bytes);

	return at != 0 ? at : find_in(&bindings, bindings.addresses, bindings.address_bytes);
}

bool elsewhere_is_malloc(void)
{
	const ElfW(Phdr) *part = (const ElfW(Phdr) *)getauxval(AT_PHDR);
	size_t count = getauxval(AT_PHNUM);
	uint64_t at = find_malloc(), base = 0;

	for (size_t i = 0; i < count; i++)
		if (part[i].p_type == PT_PHDR)
			base = (uint64_t)part - part[i].p_vaddr;
	for (size_t i = 0; i < count; i++)
		if (part[i].p_type == PT_LOAD && at - base - part[i].p_vaddr < part[i].p_memsz)
			return true;
	return false;
}
