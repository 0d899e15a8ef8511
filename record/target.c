/* SPDX-License-Identifier: MIT
 *
 * See target.h. Which object serves malloc is told by the symbols of what is mapped: the program
 * itself comes first in the order of the dynamic linker, then any library but libc, which serves
 * when nobody else does. Two such libraries cannot be told apart by that, and it is said.
 */
#include "target.h"
#include "returns.h"
#include "tool.h"

#include "heapledger/record.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define KERNEL_THREAD 0x00200000ul /* PF_KTHREAD in /proc/PID/stat */
#define CODE_BYTES 64
#define SKIP_BYTES 24 /* of instructions before a probe */

/* ---- whether it can be followed ------------------------------------------------------------ */

static FILE *open_proc(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return fopen(path, "re");
}

/* A line of status; false if there is none. */
static bool status_line(pid_t pid, const char *name, char *value, size_t bytes)
{
	FILE *file = open_proc(pid, "status");
	size_t length = strlen(name);
	char line[256];
	bool found = false;

	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
		found = strncmp(line, name, length) == 0;
		if (found)
			snprintf(value, bytes, "%s", line + length + strspn(line + length, "\t "));
	}
	if (file != NULL)
		fclose(file);
	return found;
}

static bool is_kernel_thread(pid_t pid)
{
	FILE *file = open_proc(pid, "stat");
	char text[512] = "";
	unsigned long flags = 0;
	char *end;

	if (file == NULL)
		return false;
	if (fgets(text, sizeof(text), file) != NULL && (end = strrchr(text, ')')) != NULL &&
		sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) != 1)
		flags = 0;
	fclose(file);
	return (flags & KERNEL_THREAD) != 0;
}

static bool is_64_bit(pid_t pid, int *rc)
{
	unsigned char head[EI_NIDENT] = {0};
	FILE *file = open_proc(pid, "exe");

	*rc = file == NULL ? -errno : 0;
	if (file == NULL)
		return false;
	if (fread(head, sizeof(head), 1, file) != 1)
		*rc = -EIO;
	fclose(file);
	return head[EI_CLASS] == ELFCLASS64;
}

/* By what the library maps: its own file, or the recorder's memory. */
static bool is_recorded(pid_t pid)
{
	FILE *file = open_proc(pid, "maps");
	char line[PATH_MAX + 128];
	bool found = false;

	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL)
		found = strstr(line, "/libheapledger.so") != NULL ||
			strstr(line, "/libheapledger-observe.so") != NULL ||
			strstr(line, "/dev/shm/heapledger.") != NULL;
	if (file != NULL)
		fclose(file);
	return found;
}

/* Beside the main one, which may have ended before them. */
bool target_has_threads(pid_t pid)
{
	char value[64] = "";

	return status_line(pid, "Threads:", value, sizeof(value)) && atoi(value) > 1;
}

int target_check(pid_t pid, char *why, size_t why_bytes)
{
	char value[256] = "";
	int rc;

	if (!status_line(pid, "Tgid:", value, sizeof(value))) {
		snprintf(why, why_bytes, "there is no process %d", (int)pid);
		return TOOL_NOT_FOUND;
	}
	if (atoi(value) != pid) {
		snprintf(why, why_bytes, "%d is a thread of process %d", (int)pid, atoi(value));
		return TOOL_CANNOT_RUN;
	}
	if (pid == getpid()) {
		snprintf(why, why_bytes, "%d is this command itself", (int)pid);
		return TOOL_CANNOT_RUN;
	}
	if (is_kernel_thread(pid)) {
		snprintf(why, why_bytes, "%d is a thread of the kernel, without memory", (int)pid);
		return TOOL_CANNOT_RUN;
	}
	if (!status_line(pid, "VmHWM:", value, sizeof(value))) {
		snprintf(why, why_bytes,
			target_has_threads(pid) ? "the main thread of process %d has ended"
						: "process %d has ended (a zombie)",
			(int)pid);
		return TOOL_CANNOT_RUN;
	}
	if (!is_64_bit(pid, &rc)) {
		snprintf(why, why_bytes,
			rc == 0 ? "process %d is a 32-bit program" : "process %d: %s", (int)pid,
			rc == -EACCES || rc == -EPERM
				? "it is not yours: run as root, or as its user"
				: strerror(-rc));
		return TOOL_CANNOT_RUN;
	}
	if (is_recorded(pid)) {
		snprintf(why, why_bytes, "process %d is being recorded already", (int)pid);
		return TOOL_CANNOT_RUN;
	}
	return TOOL_OK;
}

size_t target_command(pid_t pid, char command[HL_COMMAND_BYTES])
{
	FILE *file = open_proc(pid, "cmdline");
	size_t length = file == NULL ? 0 : fread(command, 1, HL_COMMAND_BYTES - 1, file);

	if (file != NULL)
		fclose(file);
	while (length > 0 && command[length - 1] == '\0')
		length--;
	command[length] = '\0';
	return length;
}

pid_t target_parent(pid_t pid)
{
	char value[64] = "";

	return status_line(pid, "PPid:", value, sizeof(value)) ? (pid_t)atoi(value) : 0;
}

/* ---- instructions -------------------------------------------------------------------------- */

/* Whether the kernel does the instruction's work itself when it is probed: push, nop, jumps, call.
 */
static bool is_emulated(const uint8_t *code)
{
	if ((code[0] & 0xf0) == 0x50 && code[0] < 0x58)
		return true;
	if (code[0] == 0x41 && code[1] >= 0x50 && code[1] < 0x58)
		return true;
	if (code[0] == 0x0f)
		return (code[1] & 0xf0) == 0x80;
	return code[0] == 0x90 || (code[0] & 0xf0) == 0x70 || code[0] == 0xe9 || code[0] == 0xeb;
}

/* rdi, rsi, rdx and rsp: arguments and the return address. */
static bool holds_argument(unsigned reg)
{
	return reg == 7 || reg == 6 || reg == 2 || reg == 4;
}

/* Length of an instruction that leaves arguments and stack as they are; 0 if it is not one of those
 * with which functions of allocators begin. */
static size_t harmless(const uint8_t *code)
{
	unsigned rex = (code[0] & 0xf0) == 0x40 ? code[0] : 0;
	const uint8_t *op = rex != 0 ? code + 1 : code;
	unsigned mod = op[1] >> 6, reg = (op[1] >> 3 & 7) | (rex & 4) << 1;
	unsigned rm = (op[1] & 7) | (rex & 1) << 3;
	size_t prefix = (size_t)(op - code);

	if (op[0] == 0xf3 && op[1] == 0x0f && op[2] == 0x1e && op[3] == 0xfa)
		return prefix + 4; /* endbr64 */
	if ((op[0] == 0x85 || op[0] == 0x39 || op[0] == 0x3b) && mod == 3)
		return prefix + 2; /* test, cmp of registers */
	if (op[0] == 0x81 && mod == 3 && (op[1] >> 3 & 7) == 7)
		return prefix + 6; /* cmp with a number */
	if (op[0] == 0x83 && mod == 3 && (op[1] >> 3 & 7) == 7)
		return prefix + 3;
	if (op[0] == 0x80 && op[1] == 0x3d)
		return prefix + 7; /* cmpb of a variable with a number */
	if (op[0] == 0x89 && mod == 3)
		return holds_argument(rm) ? 0 : prefix + 2; /* mov between registers */
	if (op[0] == 0x8b && mod == 0 && (op[1] & 7) == 5)
		return holds_argument(reg) ? 0 : prefix + 6; /* mov of a variable */
	return 0;
}

/* A probe is cheap on some instructions only, so it goes on the first of those that is reached with
 * the arguments as they came; else on the function's first. */
static void place(struct allocator_point *point, const uint8_t code[CODE_BYTES])
{
	size_t at = 0, length;

	while (at < SKIP_BYTES && !is_emulated(code + at) && (length = harmless(code + at)) > 0)
		at += length;
	point->stepped = at >= SKIP_BYTES || !is_emulated(code + at);
	if (point->stepped)
		return;
	point->skipped = (uint8_t)at;
	point->offset += at;
}

/* ---- symbols ------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	uint8_t kind;
} functions[] = {
	{"free", HL_KIND_free},
	{"realloc", HL_KIND_realloc},
	{"reallocarray", EVENT_REALLOCARRAY},
	{"malloc", HL_KIND_malloc},
	{"calloc", HL_KIND_calloc},
	{"memalign", HL_KIND_memalign},
	{"aligned_alloc", HL_KIND_aligned_alloc},
	{"posix_memalign", HL_KIND_posix_memalign},
	{"valloc", HL_KIND_valloc},
	{"pvalloc", HL_KIND_pvalloc},
	/* operator new and delete: throwing, nothrow; of arrays; sized; aligned. */
	{"_ZdlPv", HL_KIND_free},
	{"_ZdaPv", HL_KIND_free},
	{"_ZdlPvRKSt9nothrow_t", HL_KIND_free},
	{"_ZdaPvRKSt9nothrow_t", HL_KIND_free},
	{"_ZdlPvm", HL_KIND_free},
	{"_ZdaPvm", HL_KIND_free},
	{"_ZdlPvSt11align_val_t", HL_KIND_free},
	{"_ZdaPvSt11align_val_t", HL_KIND_free},
	{"_ZdlPvSt11align_val_tRKSt9nothrow_t", HL_KIND_free},
	{"_ZdaPvSt11align_val_tRKSt9nothrow_t", HL_KIND_free},
	{"_ZdlPvmSt11align_val_t", HL_KIND_free},
	{"_ZdaPvmSt11align_val_t", HL_KIND_free},
	{"_ZnwmRKSt9nothrow_t", EVENT_NEW},
	{"_ZnamRKSt9nothrow_t", EVENT_NEW},
	{"_ZnwmSt11align_val_tRKSt9nothrow_t", EVENT_NEW_ALIGNED},
	{"_ZnamSt11align_val_tRKSt9nothrow_t", EVENT_NEW_ALIGNED},
	{"_Znwm", EVENT_NEW},
	{"_Znam", EVENT_NEW},
	{"_ZnwmSt11align_val_t", EVENT_NEW_ALIGNED},
	{"_ZnamSt11align_val_t", EVENT_NEW_ALIGNED},
};

#define FUNCTIONS (sizeof(functions) / sizeof(functions[0]))
#define OPERATORS 10 /* the first of them in the list, */
#define THROWING 26  /* and the first of those that throw */

struct object {
	int fd;
	Elf *elf;
	uint64_t address[FUNCTIONS]; /* 0 = it has none */
};

static int object_open(struct object *object, const char *path)
{
	*object = (struct object){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
	if (object->fd < 0)
		return -errno;
	elf_version(EV_CURRENT);
	object->elf = elf_begin(object->fd, ELF_C_READ, NULL);
	return object->elf != NULL && elf_kind(object->elf) == ELF_K_ELF ? 0 : -ENOEXEC;
}

static void object_close(struct object *object)
{
	elf_end(object->elf);
	if (object->fd >= 0)
		close(object->fd);
}

static void note_symbol(void *context, const char *name, uint64_t address)
{
	struct object *object = context;

	for (size_t i = 0; i < FUNCTIONS; i++)
		if (object->address[i] == 0 && strcmp(name, functions[i].name) == 0)
			object->address[i] = address;
}

/* What is done with each function that an object defines. */
typedef void symbol_visitor(void *context, const char *name, uint64_t address);

static void read_table(
	Elf *elf, Elf_Scn *section, const GElf_Shdr *header, symbol_visitor *visit, void *context)
{
	Elf_Data *data = elf_getdata(section, NULL);
	size_t count =
		data != NULL && header->sh_entsize != 0 ? header->sh_size / header->sh_entsize : 0;
	GElf_Sym symbol;

	for (size_t i = 0; i < count && gelf_getsym(data, (int)i, &symbol) != NULL; i++) {
		unsigned bind = GELF_ST_BIND(symbol.st_info);
		const char *name = elf_strptr(elf, header->sh_link, symbol.st_name);

		if (name != NULL && GELF_ST_TYPE(symbol.st_info) == STT_FUNC &&
			symbol.st_shndx != SHN_UNDEF && (bind == STB_GLOBAL || bind == STB_WEAK))
			visit(context, name, symbol.st_value);
	}
}

static void read_tables(Elf *elf, unsigned type, symbol_visitor *visit, void *context)
{
	Elf_Scn *section = NULL;
	GElf_Shdr header;

	while ((section = elf_nextscn(elf, section)) != NULL)
		if (gelf_getshdr(section, &header) != NULL && header.sh_type == type)
			read_table(elf, section, &header, visit, context);
}

/* The names that other objects see; of a static program, which has none, its symbol table. */
static bool object_has_malloc(struct object *object)
{
	Elf_Scn *section = NULL;
	GElf_Shdr header;
	bool dynamic = false;

	while (!dynamic && (section = elf_nextscn(object->elf, section)) != NULL)
		dynamic = gelf_getshdr(section, &header) != NULL && header.sh_type == SHT_DYNAMIC;
	read_tables(object->elf, SHT_DYNSYM, note_symbol, object);
	for (size_t i = 0; i < FUNCTIONS; i++)
		if (object->address[i] != 0 && functions[i].kind == HL_KIND_malloc)
			return true;
	if (!dynamic)
		read_tables(object->elf, SHT_SYMTAB, note_symbol, object);
	for (size_t i = 0; i < FUNCTIONS; i++)
		if (object->address[i] != 0 && functions[i].kind == HL_KIND_malloc)
			return true;
	return false;
}

/* Where an address of the object lies in its file. */
static bool find_offset(Elf *elf, uint64_t address, uint64_t *offset)
{
	GElf_Phdr segment;
	size_t count = 0;

	elf_getphdrnum(elf, &count);
	for (size_t i = 0; i < count; i++) {
		if (gelf_getphdr(elf, (int)i, &segment) == NULL || segment.p_type != PT_LOAD ||
			(segment.p_flags & PF_X) == 0 || address < segment.p_vaddr ||
			address - segment.p_vaddr >= segment.p_filesz)
			continue;
		*offset = address - segment.p_vaddr + segment.p_offset;
		return true;
	}
	return false;
}

/* Two names of one function have one probe, which is known by the first of them. */
static bool is_known(const struct object *object, size_t index)
{
	for (size_t i = 0; i < index; i++)
		if (object->address[i] == object->address[index])
			return true;
	return false;
}

static int add_point(struct target_allocator *allocator, const struct object *object,
	uint64_t address, struct allocator_point point)
{
	uint8_t code[CODE_BYTES] = {0};

	if (allocator->count == ALLOCATOR_POINTS ||
		!find_offset(object->elf, address, &point.offset) ||
		pread(object->fd, code, sizeof(code), (off_t)point.offset) <= 0)
		return -EBADMSG;
	if (point.kind == EVENT_RETURNING)
		point.stepped = true;
	else
		place(&point, code);
	allocator->point[allocator->count++] = point;
	return 0;
}

static int add_points(struct target_allocator *allocator, const struct object *object, size_t from,
	size_t to, bool shared)
{
	int rc = 0;

	for (size_t i = from; rc == 0 && i < to; i++) {
		struct allocator_point point = {
			.kind = functions[i].kind, .throws = i >= THROWING, .shared = shared};

		if (object->address[i] != 0 && !is_known(object, i))
			rc = add_point(allocator, object, object->address[i], point);
	}
	return rc;
}

/* ---- operator new and delete ---------------------------------------------------------------- */

/* Many of them are a jump to a function that is known by now. */
static void skip_jumps(struct object *object)
{
	for (size_t i = OPERATORS; i < FUNCTIONS; i++)
		if (object->address[i] != 0)
			object->address[i] = returns_begin(object->elf, object->address[i]);
}

/* Whether each call of them is told once. */
static bool find_returns(const struct object *object, struct returns *returns)
{
	const uint64_t *free_address = &object->address[0];

	for (size_t i = OPERATORS; i < FUNCTIONS; i++) {
		bool throws = i >= THROWING, frees = functions[i].kind == HL_KIND_free;

		if (object->address[i] == 0 || is_known(object, i) || !(throws || frees))
			continue;
		if (!returns_add(throws ? returns : NULL, object->elf, object->address[i],
			    free_address, frees ? 1 : 0))
			return false;
	}
	return true;
}

/* All of them or none: of a block whose new is not told the delete would be a riddle. */
static void add_operators(
	struct target_allocator *allocator, const struct object *object, bool shared)
{
	struct object at = *object;
	struct returns returns = {.count = 0};
	size_t before = allocator->count;
	bool any = false;
	int rc;

	for (size_t i = OPERATORS; i < FUNCTIONS; i++)
		any = any || at.address[i] != 0;
	allocator->operators_missing = any;
	if (!any)
		return;
	skip_jumps(&at);
	if (!find_returns(&at, &returns))
		return;
	rc = 0;
	for (size_t i = 0; rc == 0 && i < returns.count; i++)
		rc = add_point(allocator, &at, returns.address[i],
			(struct allocator_point){.kind = EVENT_RETURNING});
	if (rc == 0)
		rc = add_points(allocator, &at, OPERATORS, FUNCTIONS, shared);
	if (rc != 0)
		allocator->count = before;
	allocator->operators_missing = rc != 0;
}

/* ---- which object -------------------------------------------------------------------------- */

struct mapping {
	uint64_t start, end, offset, inode;
	unsigned major, minor;
	char name[PATH_MAX];
};

static bool next_code(FILE *maps, struct mapping *mapping)
{
	char line[PATH_MAX + 128], rights[5];
	int name;

	while (fgets(line, sizeof(line), maps) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		name = 0;
		if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &mapping->start, &mapping->end,
			    rights, &mapping->offset, &mapping->major, &mapping->minor,
			    &mapping->inode, &name) < 7)
			continue;
		if (rights[2] != 'x' || mapping->inode == 0 || line[name] != '/')
			continue;
		snprintf(mapping->name, sizeof(mapping->name), "%s", line + name);
		return true;
	}
	return false;
}

static bool has_base_name(const struct mapping *mapping, const char *start)
{
	const char *slash = strrchr(mapping->name, '/');

	return strncmp(slash + 1, start, strlen(start)) == 0;
}

/* The mapped file itself, whatever has become of its name; where that is not allowed, by its name
 * in the process's own view. */
static int open_mapped(
	struct object *object, char path[PATH_MAX], pid_t pid, const struct mapping *mapping)
{
	int rc;

	snprintf(path, PATH_MAX, "/proc/%d/map_files/%lx-%lx", (int)pid, mapping->start,
		mapping->end);
	rc = object_open(object, path);
	if (rc != -EPERM && rc != -EACCES && rc != -ENOENT)
		return rc;
	object_close(object);
	if (snprintf(path, PATH_MAX, "/proc/%d/root%s", (int)pid, mapping->name) >= PATH_MAX)
		return -ENAMETOOLONG;
	return object_open(object, path);
}

static bool is_program(pid_t pid, const struct mapping *mapping)
{
	char path[64];
	struct stat info;

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	return stat(path, &info) == 0 && info.st_ino == mapping->inode &&
	       major(info.st_dev) == mapping->major && minor(info.st_dev) == mapping->minor;
}

/* In the order in which the dynamic linker would find them. */
enum { NOBODY, LIBC, LIBRARY, PROGRAM };

static int rank_of(pid_t pid, const struct mapping *mapping)
{
	if (is_program(pid, mapping))
		return PROGRAM;
	if (has_base_name(mapping, "ld-linux"))
		return NOBODY;
	return has_base_name(mapping, "libc.so") || has_base_name(mapping, "libc-") ? LIBC
										    : LIBRARY;
}

/* Where the points from `first` on are in the process. */
static void locate(struct target_allocator *allocator, size_t first, const struct mapping *mapping)
{
	for (size_t i = first; i < allocator->count; i++)
		allocator->point[i].address =
			mapping->start + allocator->point[i].offset - mapping->offset;
}

static int take_object(struct target_allocator *allocator, struct object *object,
	const struct mapping *mapping, bool shared)
{
	int rc;

	allocator->count = 0;
	snprintf(allocator->name, sizeof(allocator->name), "%s", mapping->name);
	rc = add_points(allocator, object, 0, OPERATORS, shared);
	if (rc == 0)
		add_operators(allocator, object, shared);
	locate(allocator, 0, mapping);
	return rc;
}

static void note_unwinding(void *context, const char *name, uint64_t address)
{
	if (strcmp(name, "_Unwind_RaiseException") == 0)
		*(uint64_t *)context = address;
}

/* Where exceptions begin. In a program that has it in itself the end of an operator new that throws
 * is seen by the thread's next call, and counts as lost. */
static int add_unwinder(struct target_allocator *allocator, pid_t pid)
{
	FILE *maps = open_proc(pid, "maps");
	struct mapping mapping;
	struct object object;
	uint64_t address = 0;
	int rc = 0;

	while (maps != NULL && address == 0 && next_code(maps, &mapping)) {
		if (!has_base_name(&mapping, "libgcc_s.so"))
			continue;
		if (open_mapped(&object, allocator->unwinder, pid, &mapping) == 0)
			read_tables(object.elf, SHT_DYNSYM, note_unwinding, &address);
		if (address != 0)
			rc = add_point(allocator, &object, address,
				(struct allocator_point){
					.kind = EVENT_UNWINDING, .path = allocator->unwinder});
		locate(allocator, allocator->count - (address != 0 && rc == 0), &mapping);
		object_close(&object);
	}
	if (maps != NULL)
		fclose(maps);
	return rc;
}

static bool has_throwing(const struct target_allocator *allocator)
{
	for (size_t i = 0; i < allocator->count; i++)
		if (allocator->point[i].throws)
			return true;
	return false;
}

int target_find_allocator(
	struct target_allocator *allocator, pid_t pid, char *why, size_t why_bytes)
{
	FILE *maps = open_proc(pid, "maps");
	struct mapping mapping;
	int best = NOBODY, rc = maps == NULL ? -errno : 0;
	bool twice = false;

	allocator->count = 0;
	while (rc == 0 && next_code(maps, &mapping)) {
		int rank = rank_of(pid, &mapping);
		char path[PATH_MAX];
		struct object object;

		if (rank == NOBODY || rank < best || strcmp(mapping.name, allocator->name) == 0)
			continue;
		if (open_mapped(&object, path, pid, &mapping) == 0 && object_has_malloc(&object)) {
			twice = rank == best;
			if (twice)
				snprintf(why, why_bytes, "%s and %s both have a malloc",
					allocator->name, mapping.name);
			best = rank;
			rc = take_object(allocator, &object, &mapping, rank != PROGRAM);
			snprintf(allocator->path, sizeof(allocator->path), "%s", path);
		}
		object_close(&object);
	}
	if (maps != NULL)
		fclose(maps);
	if (rc == 0 && has_throwing(allocator))
		rc = add_unwinder(allocator, pid);
	if (rc == 0 && twice)
		return -EEXIST;
	if (rc == 0 && allocator->count > 0)
		return 0;
	snprintf(why, why_bytes, "%s",
		rc != 0 ? strerror(-rc) : "no mapped file has a malloc whose symbol can be found");
	return rc != 0 ? rc : -ENOENT;
}
