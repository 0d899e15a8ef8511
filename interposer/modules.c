/* SPDX-License-Identifier: MIT
 *
 * See modules.h. The dynamic linker's own index (_dl_find_object, glibc 2.35) serves the lookup: it
 * takes no lock and may be used in signal handlers. Without it there are no stacks.
 *
 * Nobody says when an object is unloaded. It is noticed when another one is found in its place; a
 * return address in the new one that the old one had, too, can until then be taken for the old one.
 */
#include "modules.h"
#include "attach.h"

#include "heapledger/callstack.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

#define MODULES 512u /* remembered as noted; those beyond are noted again */
#define HEADER_BYTES 4096u

extern __typeof__(_dl_find_object) _dl_find_object __attribute__((weak));

struct module {
	uintptr_t start, end;
	uint64_t identity; /* of what is there */
};

_Atomic uint32_t modules_generation = 1;
_Atomic uint32_t modules_noted;

static struct module modules[MODULES];
static unsigned module_count;
static _Atomic bool modules_busy;
static __typeof__(dl_iterate_phdr) *iterate;

/* Of an object in memory: its program headers. */
struct module_image {
	uintptr_t base; /* address in memory - address in the file */
	const ElfW(Phdr) * headers;
	unsigned count;
};

static bool module_headers(const struct dl_find_object *found, struct module_image *image)
{
	const ElfW(Ehdr) *header = found->dlfo_map_start;

	if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
		header->e_phentsize != sizeof(ElfW(Phdr)) || header->e_phoff > HEADER_BYTES ||
		header->e_phoff + header->e_phnum * sizeof(ElfW(Phdr)) > HEADER_BYTES)
		return false;
	image->base = found->dlfo_link_map->l_addr;
	image->headers = (const ElfW(Phdr) *)((const char *)header + header->e_phoff);
	image->count = header->e_phnum;
	return true;
}

/* The part of the file's data in memory that holds `at`. */
static bool module_segment(
	const struct module_image *image, uintptr_t at, struct unwind_tables *out)
{
	for (unsigned i = 0; i < image->count; i++) {
		const ElfW(Phdr) *header = &image->headers[i];
		uintptr_t start = image->base + header->p_vaddr;

		if (header->p_type != PT_LOAD || !(header->p_flags & PF_R) ||
			at - start >= header->p_filesz)
			continue;
		out->start = (const uint8_t *)start;
		out->end = out->start + header->p_filesz;
		return true;
	}
	return false;
}

static size_t module_align(size_t bytes)
{
	return (bytes + 3) & ~(size_t)3;
}

/* The build id's note, if there is one and it is in memory. */
static void module_build_id(const struct module_image *image, struct hl_module *module)
{
	for (unsigned i = 0; i < image->count; i++) {
		const ElfW(Phdr) *header = &image->headers[i];
		const char *at = (const char *)(image->base + header->p_vaddr);
		struct unwind_tables segment;
		size_t left = header->p_filesz;

		if (header->p_type != PT_NOTE || header->p_align > 4 ||
			!module_segment(image, (uintptr_t)at, &segment) ||
			left > (size_t)(segment.end - (const uint8_t *)at))
			continue;
		while (left >= sizeof(ElfW(Nhdr))) {
			const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)at;
			size_t name = module_align(note->n_namesz), bytes;

			bytes = sizeof(*note) + name + module_align(note->n_descsz);
			if (name > left || note->n_descsz > left || bytes > left)
				break;
			if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
				memcmp(note + 1, "GNU", 4) == 0 &&
				note->n_descsz <= HL_BUILD_ID_BYTES) {
				module->build_id_bytes = note->n_descsz;
				memcpy(module->build_id, (const char *)(note + 1) + name,
					note->n_descsz);
				return;
			}
			at += bytes;
			left -= bytes;
		}
	}
}

static struct hl_module *module_claim(struct hl_session *session)
{
	struct hl_module *table = (struct hl_module *)((char *)session + session->modules_offset);
	uint32_t first = atomic_load_explicit(&session->modules_new, memory_order_relaxed);

	for (uint32_t i = 0; i < session->module_limit; i++) {
		struct hl_module *module = &table[(first + i) % session->module_limit];
		uint32_t expected = HL_MODULE_FREE;

		if (atomic_load_explicit(&module->state, memory_order_relaxed) == expected &&
			atomic_compare_exchange_strong(
				&module->state, &expected, HL_MODULE_CLAIMED))
			return module;
	}
	return NULL;
}

static const char *module_path(const struct dl_find_object *found)
{
	const char *path = found->dlfo_link_map->l_name;

	return path != NULL && path[0] != '\0' ? path : attach_program();
}

static bool module_note(const struct dl_find_object *found, const struct module_image *image)
{
	struct hl_module *module = module_claim(attached.session);
	const char *path = module_path(found);
	size_t length = 0;

	if (module == NULL)
		return false;
	module->serial = attached.serial;
	module->tick = attach_tick();
	module->start = (uintptr_t)found->dlfo_map_start;
	module->end = (uintptr_t)found->dlfo_map_end;
	module->bias = image->base;
	module->build_id_bytes = 0;
	module_build_id(image, module);
	while (length + 1 < sizeof(module->path) && path[length] != '\0') {
		module->path[length] = path[length];
		length++;
	}
	module->path[length] = '\0';
	atomic_store_explicit(&module->state, HL_MODULE_READY, memory_order_release);
	atomic_fetch_add_explicit(&attached.session->modules_new, 1, memory_order_release);
	atomic_fetch_add_explicit(&modules_noted, 1, memory_order_relaxed);
	return true;
}

/* What makes an object another one than that which was at its place: where it was put and how its
 * file is laid out. */
static uint64_t module_identity(
	const struct dl_find_object *found, const struct module_image *image)
{
	const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15);
	struct hl_module scratch = {0};
	uint64_t identity = (uintptr_t)found->dlfo_eh_frame;

	module_build_id(image, &scratch);
	for (unsigned i = 0; i < scratch.build_id_bytes; i++)
		identity = (identity ^ scratch.build_id[i]) * factor;
	for (unsigned i = 0; i < image->count; i++)
		identity = (identity ^ image->headers[i].p_filesz) * factor;
	for (const char *path = module_path(found); *path != '\0'; path++)
		identity = (identity ^ (uint8_t)*path) * factor;
	return identity;
}

/* Another object has taken the place of some. */
static void module_forget(uintptr_t start, uintptr_t end)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < module_count; i++)
		if (modules[i].end <= start || modules[i].start >= end)
			modules[kept++] = modules[i];
	if (kept != module_count)
		atomic_fetch_add(&modules_generation, 1);
	module_count = kept;
}

static bool module_remember(const struct dl_find_object *found, const struct module_image *image)
{
	struct module module = {
		.start = (uintptr_t)found->dlfo_map_start,
		.end = (uintptr_t)found->dlfo_map_end,
		.identity = module_identity(found, image),
	};

	for (unsigned i = 0; i < module_count; i++)
		if (modules[i].start == module.start && modules[i].end == module.end &&
			modules[i].identity == module.identity)
			return true;
	if (!module_note(found, image))
		return false;
	module_forget(module.start, module.end);
	if (module_count < MODULES)
		modules[module_count++] = module;
	return true;
}

/* False if it could not be noted now. */
static bool module_try(const struct dl_find_object *found, const struct module_image *image)
{
	bool known;

	if (atomic_exchange(&modules_busy, true))
		return false;
	known = module_remember(found, image);
	atomic_store(&modules_busy, false);
	return known;
}

bool modules_find(uintptr_t place, struct unwind_tables *tables, bool *known)
{
	struct dl_find_object found;
	struct module_image image;

	if (_dl_find_object == NULL || _dl_find_object((void *)place, &found) != 0 ||
		found.dlfo_eh_frame == NULL || !module_headers(&found, &image) ||
		!module_segment(&image, (uintptr_t)found.dlfo_eh_frame, tables))
		return false;
	tables->index = found.dlfo_eh_frame;
	*known = module_try(&found, &image);
	return true;
}

/* Of a place in it. */
static void module_add(const void *place)
{
	struct dl_find_object found;
	struct module_image image;

	if (_dl_find_object((void *)place, &found) == 0 && module_headers(&found, &image))
		module_try(&found, &image);
}

/* There is one thread, so the list does not change. The linker's own function, not one of that name
 * that the program may have, serves at the end. */
void modules_started(void)
{
	struct dl_find_object own;
	const struct link_map *map;

	if (_dl_find_object == NULL ||
		_dl_find_object((void *)(uintptr_t)modules_started, &own) != 0)
		return;
	for (map = own.dlfo_link_map; map->l_prev != NULL; map = map->l_prev)
		;
	for (; map != NULL; map = map->l_next)
		module_add(map->l_ld);
	*(void **)&iterate = dlsym(RTLD_NEXT, "dl_iterate_phdr");
}

/* Stops at once if anything was unloaded. */
static int module_is_left(struct dl_phdr_info *info, size_t size, void *unused)
{
	(void)unused;
	if (size < sizeof(*info) || info->dlpi_subs != 0)
		return 1;
	for (unsigned i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			module_add((void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr));
	return 0;
}

void modules_ended(void)
{
	if (iterate != NULL)
		iterate(module_is_left, NULL);
}

void modules_fork_child(void)
{
	atomic_store(&modules_busy, false);
}
