/* SPDX-License-Identifier: MIT
 *
 * vdso.h: the image of a small shared object that the kernel maps and has relocated. It is trusted,
 * and read as the ELF format says: dynamic section, symbol table, one of two kinds of hash table.
 */
#include "vdso.h"

#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOCK_NAME "__vdso_clock_gettime"

struct image {
	uintptr_t moved; /* where it is - where it was linked to */
	const ElfW(Sym) * symbols;
	const char *names;
	const uint32_t *hash, *gnu_hash;
};

static const ElfW(Ehdr) * find_image(char **envp)
{
	const ElfW(auxv_t) * entry;

	while (*envp != NULL)
		envp++;
	for (entry = (const void *)(envp + 1); entry->a_type != AT_NULL; entry++)
		if (entry->a_type == AT_SYSINFO_EHDR)
			return (const void *)entry->a_un.a_val;
	return NULL;
}

static const ElfW(Dyn) * find_dynamic(const ElfW(Ehdr) * header, struct image *image)
{
	const ElfW(Phdr) *segment = (const void *)((const char *)header + header->e_phoff);
	const ElfW(Dyn) *dynamic = NULL;
	bool loaded = false;

	for (unsigned i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type == PT_LOAD && !loaded) {
			image->moved = (uintptr_t)header + segment[i].p_offset - segment[i].p_vaddr;
			loaded = true;
		}
		if (segment[i].p_type == PT_DYNAMIC)
			dynamic = (const void *)((const char *)header + segment[i].p_offset);
	}
	return loaded ? dynamic : NULL;
}

static void read_dynamic(const ElfW(Dyn) * entry, struct image *image)
{
	for (; entry->d_tag != DT_NULL; entry++) {
		const void *at = (const void *)(entry->d_un.d_ptr + image->moved);

		if (entry->d_tag == DT_SYMTAB)
			image->symbols = at;
		else if (entry->d_tag == DT_STRTAB)
			image->names = at;
		else if (entry->d_tag == DT_HASH)
			image->hash = at;
		else if (entry->d_tag == DT_GNU_HASH)
			image->gnu_hash = at;
	}
}

/* The GNU table: buckets, shift and filter words in its head; a chain's last entry has bit 0 set.
 */
static uint32_t count_by_gnu_hash(const uint32_t *table)
{
	uint32_t buckets = table[0], first = table[1], filter_words = table[2], last = 0;
	const uint32_t *bucket = table + 4 + filter_words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
	const uint32_t *chain = bucket + buckets;

	for (uint32_t i = 0; i < buckets; i++)
		if (bucket[i] > last)
			last = bucket[i];
	if (last < first)
		return 0;
	while ((chain[last - first] & 1) == 0)
		last++;
	return last + 1;
}

static uint32_t count_symbols(const struct image *image)
{
	if (image->hash != NULL)
		return image->hash[1];
	return image->gnu_hash != NULL ? count_by_gnu_hash(image->gnu_hash) : 0;
}

static bool is_clock(const char *name)
{
	const char *wanted = CLOCK_NAME;

	while (*wanted != '\0' && *name == *wanted)
		name++, wanted++;
	return *name == *wanted;
}

vdso_clock vdso_find_clock(char **envp)
{
	const ElfW(Ehdr) *header = envp != NULL ? find_image(envp) : NULL;
	struct image image = {0};
	const ElfW(Dyn) *dynamic = header != NULL ? find_dynamic(header, &image) : NULL;

	if (dynamic == NULL)
		return NULL;
	read_dynamic(dynamic, &image);
	if (image.symbols == NULL || image.names == NULL)
		return NULL;
	for (uint32_t i = 0; i < count_symbols(&image); i++)
		if (image.symbols[i].st_shndx != SHN_UNDEF &&
			is_clock(image.names + image.symbols[i].st_name))
			return (vdso_clock)(image.symbols[i].st_value + image.moved);
	return NULL;
}
