/* SPDX-License-Identifier: MIT
 *
 * See symbols.h. Each file is opened once, as it lies on the disk; an address becomes one of the
 * file by the module's bias.
 */
#include "symbols.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <libiberty/demangle.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARENTS_MOST 10000 /* forks of forks */
#define INLINED_MOST 64

/* Code of a compilation unit, by addresses of the file. */
struct unit {
	Dwarf_Addr low, high;
	Dwarf_Die die;
};

/* A file with code. */
struct object {
	struct object *next;
	char *path;
	uint8_t build_id[HL_BUILD_ID_BYTES];
	uint8_t build_id_bytes;
	Dwfl *dwfl;
	Dwfl_Module *module; /* NULL: no names, and why */
	const char *why;
	struct unit *units; /* by low; once they were asked for */
	size_t unit_count;
	Dwarf_Addr bias; /* address here - address in the units */
	bool has_units;
};

/* What was found for an address of an object: a place in a table with open addressing. */
struct known {
	const struct object *object; /* NULL = empty */
	uint64_t offset;
	struct symbol *symbols;
	unsigned count;
};

struct symbols {
	const struct trace *trace;
	struct object *objects;
	struct known *known;
	size_t known_count, known_size;
	char **names; /* demangled ones */
	size_t name_count, name_room;
};

static char *debug_path; /* NULL: the standard one */

static const Dwfl_Callbacks callbacks = {
	.find_elf = dwfl_build_id_find_elf,
	.find_debuginfo = dwfl_standard_find_debuginfo,
	.section_address = dwfl_offline_section_address,
	.debuginfo_path = &debug_path,
};

struct symbols *symbols_open(const struct trace *trace)
{
	struct symbols *symbols = calloc(1, sizeof(*symbols));

	if (symbols != NULL)
		symbols->trace = trace;
	return symbols;
}

void symbols_close(struct symbols *symbols)
{
	struct object *next;

	if (symbols == NULL)
		return;
	for (struct object *object = symbols->objects; object != NULL; object = next) {
		next = object->next;
		if (object->dwfl != NULL)
			dwfl_end(object->dwfl);
		free(object->units);
		free(object->path);
		free(object);
	}
	for (size_t i = 0; i < symbols->known_size; i++)
		free(symbols->known[i].symbols);
	for (size_t i = 0; i < symbols->name_count; i++)
		free(symbols->names[i]);
	free(symbols->names);
	free(symbols->known);
	free(symbols);
}

/* Whether the file is the one that was recorded. */
static bool same_build(const struct object *object)
{
	const unsigned char *bits;
	GElf_Addr address;
	int length = dwfl_module_build_id(object->module, &bits, &address);

	if (object->build_id_bytes == 0)
		return true;
	return length == object->build_id_bytes &&
	       memcmp(bits, object->build_id, object->build_id_bytes) == 0;
}

/* The path is the trace's: what it names need not be a file. */
static int open_file(const char *path)
{
	struct stat status;
	int fd = path[0] != '/' ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void open_object(struct object *object)
{
	int fd = open_file(object->path);

	object->why = "cannot be read";
	object->dwfl = fd < 0 ? NULL : dwfl_begin(&callbacks);
	if (object->dwfl != NULL) {
		dwfl_report_begin(object->dwfl);
		object->module =
			dwfl_report_elf(object->dwfl, object->path, object->path, fd, 0, true);
		dwfl_report_end(object->dwfl, NULL, NULL);
	}
	/* With a module it is elfutils'. */
	if (fd >= 0 && object->module == NULL)
		close(fd);
	if (object->module != NULL && !same_build(object)) {
		object->module = NULL;
		object->why = "has changed since";
	}
}

static struct object *find_object(struct symbols *symbols, const struct stack_module *module)
{
	struct object *object;

	for (object = symbols->objects; object != NULL; object = object->next)
		if (strcmp(object->path, module->path) == 0 &&
			object->build_id_bytes == module->build_id_bytes &&
			memcmp(object->build_id, module->build_id, module->build_id_bytes) == 0)
			return object;
	object = calloc(1, sizeof(*object));
	if (object == NULL)
		return NULL;
	object->path = strdup(module->path);
	if (object->path == NULL) {
		free(object);
		return NULL;
	}
	memcpy(object->build_id, module->build_id, module->build_id_bytes);
	object->build_id_bytes = module->build_id_bytes;
	open_object(object);
	object->next = symbols->objects;
	symbols->objects = object;
	return object;
}

/* The name as a programmer wrote it; kept until the end. */
static const char *demangle(struct symbols *symbols, const char *name)
{
	char **grown, *clean;

	if (name == NULL)
		return NULL;
	clean = rust_demangle(name, DMGL_NO_OPTS);
	if (clean == NULL)
		clean = cplus_demangle_v3(name, DMGL_PARAMS | DMGL_ANSI);
	if (clean == NULL)
		return name;
	if (symbols->name_count == symbols->name_room) {
		size_t room = symbols->name_room != 0 ? symbols->name_room * 2 : 64;

		grown = realloc(symbols->names, room * sizeof(*grown));
		if (grown == NULL) {
			free(clean);
			return name;
		}
		symbols->names = grown;
		symbols->name_room = room;
	}
	return symbols->names[symbols->name_count++] = clean;
}

static const char *die_name(struct symbols *symbols, Dwarf_Die *die)
{
	Dwarf_Attribute attribute;
	const char *name = NULL;

	if (dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute) != NULL ||
		dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute) != NULL)
		name = dwarf_formstring(&attribute);
	return name != NULL ? demangle(symbols, name) : dwarf_diename(die);
}

static bool is_function(Dwarf_Die *die)
{
	int tag = dwarf_tag(die);

	return tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine ||
	       tag == DW_TAG_entry_point;
}

/* Where the call of an inlined function stands. */
static void call_place(Dwarf_Die *cu, Dwarf_Die *die, struct symbol *symbol)
{
	Dwarf_Attribute attribute;
	Dwarf_Files *files;
	Dwarf_Word value;

	symbol->file = NULL;
	symbol->line = 0;
	if (dwarf_formudata(dwarf_attr(die, DW_AT_call_file, &attribute), &value) == 0 &&
		dwarf_getsrcfiles(cu, &files, NULL) == 0)
		symbol->file = dwarf_filesrc(files, value, NULL, NULL);
	if (dwarf_formudata(dwarf_attr(die, DW_AT_call_line, &attribute), &value) == 0)
		symbol->line = (unsigned)value;
}

static int by_low(const void *left, const void *right)
{
	const struct unit *a = left, *b = right;

	return (a->low > b->low) - (a->low < b->low);
}

static bool add_unit(struct object *object, size_t *room, const struct unit *unit)
{
	struct unit *grown = object->units;

	if (object->unit_count == *room) {
		*room = *room != 0 ? *room * 2 : 64;
		grown = realloc(grown, *room * sizeof(*grown));
		if (grown == NULL)
			return false;
		object->units = grown;
	}
	grown[object->unit_count++] = *unit;
	return true;
}

/* Not all compilers write an index of addresses (.debug_aranges): then this is made, once. */
static void find_units(struct object *object)
{
	struct unit unit;
	Dwarf_Die *die = NULL;
	Dwarf_Addr base;
	ptrdiff_t at;
	size_t room = 0;
	bool more = true;

	object->has_units = true;
	while (more && (die = dwfl_module_nextcu(object->module, die, &object->bias)) != NULL) {
		unit.die = *die;
		at = 0;
		while (more && (at = dwarf_ranges(die, at, &base, &unit.low, &unit.high)) > 0)
			more = add_unit(object, &room, &unit);
	}
	if (object->unit_count > 0)
		qsort(object->units, object->unit_count, sizeof(unit), by_low);
}

static Dwarf_Die *unit_at(struct object *object, uint64_t offset, Dwarf_Addr *bias)
{
	Dwarf_Die *die = dwfl_module_addrdie(object->module, offset, bias);
	size_t low = 0, high;

	if (die != NULL)
		return die;
	if (!object->has_units)
		find_units(object);
	*bias = object->bias;
	high = object->unit_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (object->units[middle].low <= offset - object->bias)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || offset - object->bias >= object->units[low - 1].high)
		return NULL;
	return &object->units[low - 1].die;
}

/* Where the instruction itself stands. */
static void line_place(Dwarf_Die *cu, uint64_t address, struct symbol *symbol)
{
	Dwarf_Line *line = dwarf_getsrc_die(cu, address);
	int number;

	if (line == NULL)
		return;
	symbol->file = dwarf_linesrc(line, NULL, NULL);
	if (dwarf_lineno(line, &number) == 0 && number > 0)
		symbol->line = (unsigned)number;
}

/* The functions around an address by DWARF, the innermost first; the place of each but the first is
 * where the one before was inlined. */
static unsigned find_inlined(struct symbols *symbols, struct object *object, uint64_t offset,
	struct symbol *list, unsigned limit)
{
	Dwarf_Addr bias = 0;
	Dwarf_Die *cu = unit_at(object, offset, &bias);
	Dwarf_Die *scopes = NULL, *outer = NULL;
	struct symbol place = {0};
	unsigned found = 0;
	int count;

	if (cu == NULL)
		return 0;
	line_place(cu, offset - bias, &list[0]);
	place = list[0];
	count = dwarf_getscopes(cu, offset - bias, &scopes);
	if (count > 0) {
		int all = dwarf_getscopes_die(&scopes[0], &outer);

		if (all > 0) {
			free(scopes);
			scopes = outer;
			count = all;
		}
	}
	for (int i = 0; i < count && found < limit; i++) {
		if (!is_function(&scopes[i]))
			continue;
		place.function = die_name(symbols, &scopes[i]);
		place.inlined = dwarf_tag(&scopes[i]) == DW_TAG_inlined_subroutine;
		list[found++] = place;
		if (!place.inlined)
			break;
		call_place(cu, &scopes[i], &place);
	}
	free(scopes);
	return found;
}

static int look_up(struct symbols *symbols, struct object *object, struct known *known)
{
	struct symbol list[INLINED_MOST] = {0};
	const char *name;
	unsigned count;

	if (object->module == NULL)
		return 0;
	count = find_inlined(symbols, object, known->offset, list, INLINED_MOST);
	/* Without DWARF, or where it has no name: the symbol table. */
	if (count == 0 || list[count - 1].function == NULL) {
		name = dwfl_module_addrname(object->module, known->offset);
		count += count == 0;
		list[count - 1].function = demangle(symbols, name);
		if (name == NULL && list[0].file == NULL)
			return 0;
	}
	known->symbols = malloc(count * sizeof(*list));
	if (known->symbols == NULL)
		return -ENOMEM;
	memcpy(known->symbols, list, count * sizeof(*list));
	known->count = count;
	return 0;
}

static struct known *known_slot(
	struct known *table, size_t size, const struct object *object, uint64_t offset)
{
	uint64_t hash = (offset ^ (uintptr_t)object << 16) * UINT64_C(0x9e3779b97f4a7c15);
	size_t slot = (size_t)(hash >> 32) & (size - 1);

	while (table[slot].object != NULL &&
		(table[slot].object != object || table[slot].offset != offset))
		slot = (slot + 1) & (size - 1);
	return &table[slot];
}

static int known_grow(struct symbols *symbols)
{
	size_t size = symbols->known_size != 0 ? symbols->known_size * 2 : 1024;
	struct known *table = calloc(size, sizeof(*table));

	if (table == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < symbols->known_size; i++) {
		const struct known *old = &symbols->known[i];

		if (old->object != NULL)
			*known_slot(table, size, old->object, old->offset) = *old;
	}
	free(symbols->known);
	symbols->known = table;
	symbols->known_size = size;
	return 0;
}

static int find_known(
	struct symbols *symbols, struct object *object, uint64_t offset, const struct known **out)
{
	struct known *known;
	int rc;

	if (symbols->known_count * 2 >= symbols->known_size && known_grow(symbols) != 0)
		return -ENOMEM;
	known = known_slot(symbols->known, symbols->known_size, object, offset);
	*out = known;
	if (known->object != NULL)
		return 0;
	known->offset = offset;
	rc = look_up(symbols, object, known);
	if (rc != 0)
		return rc;
	known->object = object;
	symbols->known_count++;
	return 0;
}

static const struct trace_stream *stream_by_serial(const struct trace *trace, uint32_t serial)
{
	size_t low = 0, high = trace->stream_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		uint32_t at = trace->streams[middle].info.header.serial;

		if (at == serial)
			return &trace->streams[middle];
		if (at < serial)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* What a process has not noted itself its parent has, before the fork. */
static const struct stack_module *find_module(const struct trace *trace,
	const struct trace_stream *stream, uint64_t tick, uint64_t address)
{
	const struct stack_module *module = NULL;
	uint32_t serial = stream->info.header.serial;

	for (int i = 0; module == NULL && i < PARENTS_MOST; i++) {
		module = stacks_module(&trace->stacks, serial, tick, address, i == 0);
		if (stream == NULL || stream->info.header.parent_serial == 0)
			break;
		serial = stream->info.header.parent_serial;
		tick = stream->info.header.start_tick;
		stream = stream_by_serial(trace, serial);
	}
	return module;
}

int symbols_find(struct symbols *symbols, const struct trace_stream *stream, uint64_t tick,
	uint64_t frame, struct symbol_place *place)
{
	const struct known *known;
	struct object *object;
	int rc;

	*place = (struct symbol_place){0};
	/* In the instruction that was under way. */
	place->module = find_module(symbols->trace, stream, tick, frame - 1);
	if (place->module == NULL)
		return 0;
	place->offset = frame - place->module->bias;
	object = find_object(symbols, place->module);
	if (object == NULL)
		return -ENOMEM;
	place->why = object->why;
	rc = find_known(symbols, object, place->offset - 1, &known);
	if (rc != 0)
		return rc;
	place->symbols = known->symbols;
	place->count = known->count;
	if (object->module != NULL)
		place->why = NULL;
	return 0;
}
