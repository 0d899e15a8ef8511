/* SPDX-License-Identifier: MIT
 *
 * returns.h over capstone. A jump by a word of memory is that of a table of addresses, which is
 * filled by name: by a name of this object's own, since it comes first where its malloc serves.
 * Capstone is loaded when it is needed: to link it takes every command 0.7 ms.
 */
#include "returns.h"

#include <capstone/capstone.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define INSTRUCTIONS 4096
#define JUMPS 8 /* that lead from one name to the next */
#define NOWHERE UINT64_MAX

static struct {
	bool tried;
	void *handle;
	__typeof__(&cs_open) open;
	__typeof__(&cs_option) option;
	__typeof__(&cs_malloc) malloc;
	__typeof__(&cs_disasm_iter) disasm_iter;
	__typeof__(&cs_insn_group) insn_group;
	__typeof__(&cs_free) free;
	__typeof__(&cs_close) close;
} library;

#define NAME_TEXT(number) #number
#define NAME(number) "libcapstone.so." NAME_TEXT(number)
#define LOAD(name) (*(void **)&library.name = dlsym(library.handle, "cs_" #name)) != NULL

static bool load(void)
{
	if (!library.tried) {
		library.tried = true;
		library.handle = dlopen(NAME(CS_API_MAJOR), RTLD_NOW | RTLD_LOCAL);
		if (library.handle != NULL &&
			!(LOAD(open) && LOAD(option) && LOAD(malloc) && LOAD(disasm_iter) &&
				LOAD(insn_group) && LOAD(free) && LOAD(close)))
			library.handle = NULL;
	}
	return library.handle != NULL;
}

struct walk {
	Elf *elf;
	csh capstone;
	cs_insn *instruction;
	struct returns *returns;
	const uint64_t *others;
	size_t other_count;
	uint64_t seen[INSTRUCTIONS], open[INSTRUCTIONS];
	size_t seen_count, open_count;
};

/* The bytes from an address of the object on, as many as lie in its file. */
static const uint8_t *code_at(Elf *elf, uint64_t address, size_t *bytes)
{
	size_t count = 0, size = 0;
	const char *file = elf_rawfile(elf, &size);
	GElf_Phdr segment;

	elf_getphdrnum(elf, &count);
	for (size_t i = 0; file != NULL && i < count; i++) {
		if (gelf_getphdr(elf, (int)i, &segment) == NULL || segment.p_type != PT_LOAD ||
			address < segment.p_vaddr ||
			address - segment.p_vaddr >= segment.p_filesz || segment.p_offset > size ||
			segment.p_filesz > size - segment.p_offset)
			continue;
		*bytes = segment.p_filesz - (address - segment.p_vaddr);
		return (const uint8_t *)file + segment.p_offset + (address - segment.p_vaddr);
	}
	return NULL;
}

/* ---- names ---------------------------------------------------------------------------------- */

static const char *slot_name(
	Elf *elf, const GElf_Shdr *section, Elf_Scn *relocations, uint64_t slot, GElf_Sym *symbol)
{
	Elf_Data *data = elf_getdata(relocations, NULL);
	Elf_Scn *table = elf_getscn(elf, section->sh_link);
	Elf_Data *symbols = table != NULL ? elf_getdata(table, NULL) : NULL;
	GElf_Shdr header;
	GElf_Rela rela;

	if (data == NULL || symbols == NULL || gelf_getshdr(table, &header) == NULL)
		return NULL;
	for (int i = 0; gelf_getrela(data, i, &rela) != NULL; i++)
		if (rela.r_offset == slot &&
			gelf_getsym(symbols, (int)GELF_R_SYM(rela.r_info), symbol) != NULL)
			return elf_strptr(elf, header.sh_link, symbol->st_name);
	return NULL;
}

/* Whose address the dynamic linker writes to `slot`; NULL: nobody's by name. */
static const char *find_slot(Elf *elf, uint64_t slot, GElf_Sym *symbol)
{
	Elf_Scn *section = NULL;
	const char *name = NULL;
	GElf_Shdr header;

	while (name == NULL && (section = elf_nextscn(elf, section)) != NULL)
		if (gelf_getshdr(section, &header) != NULL && header.sh_type == SHT_RELA)
			name = slot_name(elf, &header, section, slot, symbol);
	return name;
}

/* ---- one instruction ------------------------------------------------------------------------ */

static bool decode(struct walk *walk, uint64_t address)
{
	size_t bytes = 0;
	const uint8_t *code = code_at(walk->elf, address, &bytes);

	return code != NULL &&
	       library.disasm_iter(walk->capstone, &code, &bytes, &address, walk->instruction);
}

/* Where a jump or call leads; NOWHERE if that is not in the object, or not known. */
static uint64_t target_of(const struct walk *walk, const char **name)
{
	const cs_insn *at = walk->instruction;
	const cs_x86_op *operand = &at->detail->x86.operands[0];
	GElf_Sym symbol;

	*name = NULL;
	if (at->detail->x86.op_count != 1)
		return NOWHERE;
	if (operand->type == X86_OP_IMM)
		return (uint64_t)operand->imm;
	if (operand->type != X86_OP_MEM || operand->mem.base != X86_REG_RIP ||
		operand->mem.index != X86_REG_INVALID)
		return NOWHERE;
	*name = find_slot(walk->elf, at->address + at->size + (uint64_t)operand->mem.disp, &symbol);
	return *name != NULL && symbol.st_shndx != SHN_UNDEF ? symbol.st_value : NOWHERE;
}

static bool is(const struct walk *walk, unsigned group)
{
	return library.insn_group(walk->capstone, walk->instruction, group);
}

static bool is_jump_only(const struct walk *walk)
{
	return walk->instruction->id == X86_INS_JMP;
}

static bool is_end(const struct walk *walk)
{
	switch (walk->instruction->id) {
	case X86_INS_UD2:
	case X86_INS_HLT:
	case X86_INS_INT3:
		return true;
	default:
		return false;
	}
}

/* ---- following ------------------------------------------------------------------------------ */

static bool open_walk(struct walk *walk, Elf *elf)
{
	walk->elf = elf;
	if (!load() || library.open(CS_ARCH_X86, CS_MODE_64, &walk->capstone) != CS_ERR_OK)
		return false;
	library.option(walk->capstone, CS_OPT_DETAIL, CS_OPT_ON);
	walk->instruction = library.malloc(walk->capstone);
	return walk->instruction != NULL;
}

static void close_walk(struct walk *walk)
{
	if (walk->instruction != NULL)
		library.free(walk->instruction, 1);
	if (walk->capstone != 0)
		library.close(&walk->capstone);
	free(walk);
}

static uint64_t skip_jumps(struct walk *walk, uint64_t address)
{
	const char *name;

	for (int i = 0; i < JUMPS && decode(walk, address); i++) {
		uint64_t next;

		if (walk->instruction->id == X86_INS_ENDBR64 &&
			!decode(walk, address + walk->instruction->size))
			break;
		if (!is_jump_only(walk) || (next = target_of(walk, &name)) == NOWHERE)
			break;
		address = next;
	}
	return address;
}

static bool has(const uint64_t *list, size_t count, uint64_t address)
{
	for (size_t i = 0; i < count; i++)
		if (list[i] == address)
			return true;
	return false;
}

static bool go_to(struct walk *walk, uint64_t address)
{
	if (address == NOWHERE || has(walk->others, walk->other_count, address) ||
		walk->open_count == INSTRUCTIONS)
		return false;
	walk->open[walk->open_count++] = address;
	return true;
}

static bool note_return(struct walk *walk)
{
	struct returns *returns = walk->returns;

	if (returns == NULL || has(returns->address, returns->count, walk->instruction->address))
		return true;
	if (returns->count == RETURNS)
		return false;
	returns->address[returns->count++] = walk->instruction->address;
	return true;
}

/* Those that compilers know not to come back: after the call there is nothing, or anything. */
static bool ends_thread(const char *name)
{
	static const char *const names[] = {"abort", "exit", "_exit", "__stack_chk_fail",
		"__assert_fail", "__cxa_throw", "__cxa_rethrow", "__cxa_throw_bad_array_new_length",
		"_Unwind_Resume", "_ZSt9terminatev", "_ZSt17__throw_bad_allocv"};

	for (size_t i = 0; name != NULL && i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* By the object's table of calls to names, if that is where it leads. `others` that are called
 * directly know it (allocator.bpf.c). */
static bool may_call(struct walk *walk, bool *returns)
{
	const char *name;
	uint64_t target = target_of(walk, &name);

	if (target != NOWHERE && name == NULL && decode(walk, target)) {
		if (walk->instruction->id == X86_INS_ENDBR64)
			decode(walk, target + walk->instruction->size);
		if (is_jump_only(walk))
			target = target_of(walk, &name);
	}
	*returns = !ends_thread(name);
	return name == NULL || !has(walk->others, walk->other_count, target);
}

/* From one address on to where it does not go on. False: it cannot be told. */
static bool follow(struct walk *walk, uint64_t address)
{
	for (bool on = true; on && !has(walk->seen, walk->seen_count, address);) {
		const char *name;
		uint64_t next;

		if (walk->seen_count == INSTRUCTIONS || !decode(walk, address))
			return false;
		walk->seen[walk->seen_count++] = address;
		next = address + walk->instruction->size;
		if (is(walk, CS_GRP_RET)) {
			if (!note_return(walk))
				return false;
			on = false;
		} else if (is(walk, CS_GRP_CALL)) {
			if (!may_call(walk, &on))
				return false;
		} else if (is(walk, CS_GRP_JUMP)) {
			on = !is_jump_only(walk);
			if (!go_to(walk, target_of(walk, &name)))
				return false;
		} else {
			on = !is_end(walk);
		}
		address = next;
	}
	return true;
}

/* ---- returns.h ------------------------------------------------------------------------------ */

uint64_t returns_begin(Elf *elf, uint64_t function)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	if (walk == NULL)
		return function;
	if (open_walk(walk, elf))
		function = skip_jumps(walk, function);
	close_walk(walk);
	return function;
}

bool returns_add(struct returns *returns, Elf *elf, uint64_t function, const uint64_t *others,
	size_t other_count)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	bool known;

	if (walk == NULL)
		return false;
	walk->returns = returns;
	walk->others = others;
	walk->other_count = other_count;
	known = open_walk(walk, elf) && go_to(walk, function);
	while (known && walk->open_count > 0)
		known = follow(walk, walk->open[--walk->open_count]);
	close_walk(walk);
	return known;
}
