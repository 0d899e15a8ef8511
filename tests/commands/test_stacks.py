# SPDX-License-Identifier: MIT
"""`record --stacks` and what the tools make of it: frames as the C library's own unwinder sees them,
in every kind of frame; names, lines and inlined functions; modules that come and go; unwind tables
that are wrong; and a file of stacks that is damaged."""

import re
import shutil

import pytest

from conftest import analyze, assert_sound, run

EVENT = re.compile(r'^(\d+)\.(\d+) ')


def record(heapledger, trace, *argv, depth=64, options=(), **keywords):
    return run([heapledger, 'record', '--stacks', depth, '--kernel', 'off', '-o', trace, *options,
                '--', *argv], **keywords)


def stacks_by_size(heapledger, trace, *options):
    """{(pid, size): the lines of its stack} of all mallocs."""
    outcome = run([heapledger, 'dump', '--stacks', '--no-time', '--kind', 'malloc', *options, trace])
    assert outcome.status == 0, outcome.stderr
    found, lines = {}, None
    for line in outcome.stdout.decode().splitlines():
        if line.startswith('    '):
            lines.append(line[4:])
            continue
        lines = []
        pid = int(EVENT.match(line).group(1))
        found.setdefault((pid, int(re.search(r' size=(\d+) ', line).group(1))), []).append(lines)
    return found


def addresses(lines):
    """Those of the frames, one each: inlined functions have lines of their own."""
    kept, inlined = [], False
    for line in lines:
        if line.startswith('0x') and not inlined:
            kept.append(int(line.split()[0], 16))
        inlined = '(inlined)' in line
    return kept


def said(stdout):
    """{(pid, size): (kind, frames)} that the victim wrote."""
    lines = [line.split() for line in stdout.decode().splitlines()]
    return {(int(pid), int(size)): (kind, [int(frame, 16) for frame in frames])
            for pid, kind, size, *frames in lines}


@pytest.fixture(scope='module')
def victim_stacks(build, heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('stacks') / 'trace'
    outcome = record(heapledger, trace, build / 'tests' / 'victims' / 'victim_stacks')
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    assert_sound(analyze(heapledger, trace), 200, trace)
    return said(outcome.stdout), stacks_by_size(heapledger, trace)


def test_frames_are_those_of_the_c_library(victim_stacks):
    expected, found = victim_stacks
    kinds = {kind for kind, _ in expected.values()}
    assert kinds == {'plain', 'alloca', 'aligned', 'ways', 'signal', 'routine', 'thread', 'child',
                     'parent'}
    assert len(expected) > 200
    for key, (kind, frames) in expected.items():
        (lines,) = found[key]
        mine = addresses(lines)[1:]
        if kind == 'signal':
            # What the signal interrupted is told as the place + 1: it is no return address.
            assert [mine[i] - (mine[i] == frames[i] + 1) for i in range(len(frames))] == frames, key
            assert sum(a != b for a, b in zip(mine, frames)) == 1, key
        else:
            assert mine == frames, (key, kind, lines)


def test_frames_have_names(victim_stacks):
    expected, found = victim_stacks
    for key, (kind, _) in expected.items():
        (lines,) = found[key]
        names = [line.split()[1] for line in lines if line.startswith('0x')]
        assert names[0] == 'allocate', lines
        assert re.search(r' at \S*stacks\.c:\d+ in \S*/victim_stacks\+0x', lines[0]), lines[0]
        assert ('in_thread' in names) == (kind == 'thread'), lines
        assert ('on_signal' in names) == (kind == 'signal'), lines
        # The child has noted no module itself: it knows them from its parent.
        if kind not in ('thread', 'routine'):
            assert 'main' in names, lines


@pytest.mark.parametrize('depth', [1, 5, 16])
def test_no_more_frames_than_asked_for(build, heapledger, tmp_path, depth):
    outcome = record(heapledger, tmp_path / 'trace', build / 'tests/victims/victim_stacks',
                     depth=depth)
    assert outcome.status == 0, outcome
    found = stacks_by_size(heapledger, tmp_path / 'trace')
    cut = 0
    for key, (kind, frames) in said(outcome.stdout).items():
        (lines,) = found[key]
        mine = addresses(lines)
        if kind != 'signal':
            assert mine[1:] == frames[:depth - 1], (kind, lines)
        assert len(mine) == min(depth, len(frames) + 1)
        assert (lines[-1] == '...') == (len(mine) == depth), lines
        cut += lines[-1] == '...'
    assert cut > 0


def test_zero_records_callers_only(build, heapledger, tmp_path):
    outcome = record(heapledger, tmp_path / 'trace', build / 'tests/victims/victim_stacks', depth=0)
    assert outcome.status == 0, outcome
    text = run([heapledger, 'dump', '--stacks', tmp_path / 'trace']).stdout
    assert b' caller=0x' in text and b' stack=' not in text
    events = re.split(rb'\n(?=\d)', text)
    frames = [re.findall(r'\n    (.*)', event.decode()) for event in events if b' caller=0x' in event]
    assert {len(addresses(lines)) for lines in frames} == {1}
    assert any(' allocate at ' in lines[0] for lines in frames if lines), frames[:9]


def test_system_calls_have_the_stack_of_their_cause(build, heapledger, tmp_path):
    outcome = record(heapledger, tmp_path / 'trace', build / 'tests/victims/victim_stacks')
    assert outcome.status == 0, outcome
    text = run([heapledger, 'dump', '--stacks', '--no-time', '--kind', 'brk', tmp_path / 'trace'])
    events = re.split(r'\n(?=\d)', text.stdout.decode().strip())
    caused = [event for event in events if ' call=malloc ' in event and ' stack=' in event]
    assert caused and any('allocate at ' in event for event in caused), events


@pytest.mark.parametrize('depth', [3, 64])
def test_wrong_unwind_tables_do_no_harm(build, heapledger, tmp_path, depth):
    outcome = record(heapledger, tmp_path / 'trace', build / 'tests/victims/victim_unwind_broken',
                     depth=depth)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'done\n', b''), outcome
    found = stacks_by_size(heapledger, tmp_path / 'trace')
    mine = [stack for (_, size), (stack, *_) in found.items() if 20000 <= size < 20072]
    assert len(mine) == 72
    for lines in mine:
        assert lines[0].split()[1] == 'allocate', lines
    broken = [lines for lines in mine if lines[-1].startswith('?')]
    assert len(broken) >= 56, mine


PLUGIN = '''
#include <stdlib.h>
void *run(size_t size);
__attribute__((noinline)) static void *NAME(size_t size)
{
	void *block = malloc(size);
	__asm__ volatile("");
	return block;
}
void *run(size_t size)
{
	void *block = NAME(size);
	__asm__ volatile("");
	return block;
}
'''

LOADER = '''
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
	for (int i = 0; i < 40; i++) {
		void *module = dlopen(argv[1 + i / 2 % (argc - 1)], RTLD_NOW);
		void *(*run)(size_t) = (void *(*)(size_t))dlsym(module, "run");
		free(run(30000 + (size_t)i));
		printf("%p\\n", (void *)run);
		dlclose(module);
	}
	return 0;
}
'''


def compile_c(folder, name, source, *options, language='c'):
    path = folder / f'{name}.{language}'
    path.write_text(source)
    compiler = 'gcc' if language == 'c' else 'g++'
    outcome = run([compiler, '-g', '-O2', '-fno-optimize-sibling-calls', '-o', folder / name, path,
                   *options])
    assert outcome.status == 0, outcome
    return folder / name


def test_modules_come_and_go(heapledger, tmp_path):
    """Libraries of one size, which the dynamic linker puts in the same place one after the other."""
    names = ['apples', 'pears', 'plums']
    modules = [compile_c(tmp_path, f'{name}.so', PLUGIN.replace('NAME', name).replace(
        'void *block = malloc', '__asm__ volatile(".skip %d, 0x90");\n\tvoid *block = malloc'
        % (16 * number)), '-shared', '-fPIC') for number, name in enumerate(names)]
    loader = compile_c(tmp_path, 'loader', LOADER)
    outcome = record(heapledger, tmp_path / 'trace', loader, *modules)
    assert outcome.status == 0, outcome
    places = outcome.stdout.split()
    assert len(set(places)) < len(places) / 2, 'they were never in the same place'
    found = stacks_by_size(heapledger, tmp_path / 'trace')
    sizes = {size: stacks for (_, size), stacks in found.items() if 30000 <= size < 30040}
    assert len(sizes) == 40
    for size, (lines,) in sizes.items():
        name = names[(size - 30000) // 2 % 3]
        assert lines[0].split()[1] == name, (size, lines)
        assert f'/{name}.so+0x' in lines[1] and lines[1].split()[1] == 'run', (size, lines)
        assert lines[2].split()[1] == 'main', (size, lines)


KEEPER = LOADER.replace('dlclose(module);', 'if (argv[0][0] == \'u\') dlclose(module);')


@pytest.mark.parametrize('unloads', [False, True])
def test_without_stacks_callers_are_named_if_nothing_was_unloaded(heapledger, tmp_path, unloads):
    """Else an address may have meant two things, and only what was loaded at the start is named."""
    module = compile_c(tmp_path, 'apples.so', PLUGIN.replace('NAME', 'apples'), '-shared', '-fPIC')
    loader = compile_c(tmp_path, 'loader', KEEPER.replace(
        'return 0;', 'return malloc(70000) == NULL;'))
    program = ['/bin/bash', '-c', f'exec -a {"u" if unloads else "k"} {loader} {module}']
    assert record(heapledger, tmp_path / 'trace', *program, depth=0).status == 0
    found = stacks_by_size(heapledger, tmp_path / 'trace')
    (lines,), = [stacks for (_, size), stacks in found.items() if size == 70000]
    assert lines[0].split()[1] == 'main', lines
    plugin = [stacks for (_, size), stacks in found.items() if 30000 <= size < 30040]
    assert len(plugin) == 40
    for lines, in plugin:
        assert not lines if unloads else lines[0].split()[1] == 'apples', lines


CHILD = '''
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *use(const char *path, size_t size)
{
	void *module = dlopen(path, RTLD_NOW);
	void *(*run)(size_t) = (void *(*)(size_t))dlsym(module, "run");
	run(size);
	return (void *)run;
}
int main(int argc, char **argv)
{
	pid_t child;
	void *place;
	int status = argc;
	use(argv[1], 50000);
	child = fork();
	place = use(argv[2 + (child == 0)], 50001 + (child == 0));
	if (child == 0) {
		if (argv[4])
			_exit(place == NULL);
		return place == NULL;
	}
	waitpid(child, &status, 0);
	return status || malloc(70000) == NULL;
}
'''


@pytest.mark.parametrize('dies', [False, True])
def test_what_a_parent_loaded_after_the_fork_names_nothing_in_its_child(heapledger, tmp_path, dies):
    """Both load a library of one size then, so that the two have one address."""
    names = ['apples', 'pears', 'plums']
    modules = [compile_c(tmp_path, f'{name}.so', PLUGIN.replace('NAME', name), '-shared', '-fPIC')
               for name in names]
    program = compile_c(tmp_path, 'child', CHILD)
    extra = ['dies'] if dies else []
    assert record(heapledger, tmp_path / 'trace', program, *modules, *extra, depth=0).status == 0
    found = {size: stacks[0] for (_, size), stacks in
             stacks_by_size(heapledger, tmp_path / 'trace').items()}
    assert found[50000][0].split()[1] == 'apples' and found[50001][0].split()[1] == 'pears', found
    assert not found[50002] if dies else found[50002][0].split()[1] == 'plums', found


NAMES = '''
#include <cstdlib>
#include <string>
namespace shop {
template<typename T> struct Basket {
	__attribute__((noinline)) void *add(T size) { void *p = malloc(size); asm volatile(""); return p; }
};
__attribute__((always_inline)) inline void *wrap(size_t size) {
	void *p = Basket<unsigned long>().add(size);   // LINE wrap
	asm volatile("");
	return p;
}
}
extern "C" void *rust_new(size_t) asm("_RNvC6_123foo3bar");
__attribute__((noinline)) void *rust_new(size_t size) { void *p = shop::wrap(size); asm volatile(""); return p; }
extern "C" void *rust_old(size_t) asm("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE");
__attribute__((noinline)) void *rust_old(size_t size) { void *p = rust_new(size); asm volatile(""); return p; }
int main() {
	free(rust_old(40001));
	return 0;
}
'''


def symbolised(heapledger, trace):
    (lines,) = next(stacks for (_, size), stacks in stacks_by_size(heapledger, trace).items()
                    if size == 40001)
    return lines


def test_names_of_languages_inlined_functions_and_lines(heapledger, tmp_path):
    program = compile_c(tmp_path, 'names', NAMES, language='cc')
    assert record(heapledger, tmp_path / 'trace', program).status == 0
    lines = symbolised(heapledger, tmp_path / 'trace')
    wrap = 1 + NAMES[:NAMES.index('// LINE wrap')].count('\n')
    text = [re.sub(r'^0x\w+ ', '', line) for line in lines]
    source = re.escape(str(tmp_path / 'names.cc'))
    assert re.match(rf'shop::Basket<unsigned long>::add\(unsigned long\) at {source}:\d+ in', text[0])
    assert re.match(rf'shop::wrap\(unsigned long\) at {source}:{wrap} \(inlined\)', text[1]), text
    assert re.match(rf'123foo::bar at {source}:\d+ in ', text[2]), text
    assert re.match(r'core::fmt::Write::write_fmt at ', text[3]), text
    assert text[4].startswith('main at '), text
    assert lines[1].split()[0] == lines[2].split()[0], 'an inlined function has no place of its own'


def test_debug_information_in_a_file_of_its_own(heapledger, tmp_path):
    program = compile_c(tmp_path, 'names', NAMES, language='cc')
    debug = tmp_path / 'names.debug'
    for command in (['objcopy', '--only-keep-debug', program, debug],
                    ['strip', '--strip-all', program],
                    ['objcopy', f'--add-gnu-debuglink={debug}', program]):
        assert run(command).status == 0
    assert record(heapledger, tmp_path / 'trace', program).status == 0
    with_debug = symbolised(heapledger, tmp_path / 'trace')
    assert 'shop::wrap(unsigned long) at ' in with_debug[1], with_debug
    debug.unlink()
    without = symbolised(heapledger, tmp_path / 'trace')
    assert re.fullmatch(r'0x\w+ in \S+/names\+0x\w+', without[0]), without


def test_a_program_that_was_rebuilt_has_no_names(heapledger, tmp_path):
    program = compile_c(tmp_path, 'names', NAMES, language='cc')
    assert record(heapledger, tmp_path / 'trace', program).status == 0
    compile_c(tmp_path, 'names', NAMES + 'int other;', language='cc')
    lines = symbolised(heapledger, tmp_path / 'trace')
    assert lines[0].endswith(', which has changed since'), lines
    program.unlink()
    lines = symbolised(heapledger, tmp_path / 'trace')
    assert lines[0].endswith(', which cannot be read'), lines


def test_the_recorders_calls_do_not_grow_with_stacks(heapledger, tmp_path):
    """A mapping more for each thread."""
    counts = []
    for number, (depth, blocks) in enumerate([(0, 10), (16, 10), (16, 200000)]):
        trace = tmp_path / f'trace{number}'
        code = f'x = [bytearray(100) for i in range({blocks})]'
        outcome = record(heapledger, trace, '/usr/bin/python3', '-c', code, depth=depth,
                         env={'PYTHONMALLOC': 'malloc'})
        assert outcome.status == 0, outcome
        counts.append(analyze(heapledger, trace)['syscalls']['recorder'])
    assert counts == [counts[0], counts[0] + 1, counts[0] + 1], counts


@pytest.mark.parametrize('depth', ['', '-1', '65', '1x', '16 ', '0x10'])
def test_bad_depths_are_refused(heapledger, tmp_path, depth):
    outcome = record(heapledger, tmp_path / 'trace', '/bin/true', depth=depth)
    assert outcome.status == 2 and not (tmp_path / 'trace').exists()
    assert outcome.stderr.startswith(b'heapledger: record: --stacks: a number of frames from 0 to 64')
    assert outcome.stderr.count(b'\n') == 1


@pytest.fixture(scope='module')
def some_trace(build, heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('damage') / 'trace'
    assert record(heapledger, trace, '/bin/ls', '/', depth=16).status == 0
    return trace


def test_damage_is_told_by_its_offset(heapledger, some_trace, tmp_path):
    trace = tmp_path / 'trace'
    shutil.copytree(some_trace, trace)
    stacks = trace / 'stacks.hls'
    whole = stacks.read_bytes()
    for offset, says in ((3, 'offset 0: not a file of stacks'), (13, 'offset 0: the header'),
                         (20, "offset 16: the block's header"), (60, 'offset 16: the block is')):
        stacks.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1:])
        outcome = run([heapledger, 'dump', trace])
        assert outcome.status == 3, (offset, outcome.stderr)
        assert outcome.stderr.startswith(
            f'heapledger: dump: {stacks}: {says}'.encode()), (offset, outcome.stderr)
        assert outcome.stderr.count(b'\n') == 1


def test_a_file_that_is_cut_off_serves_as_far_as_it_goes(heapledger, some_trace, tmp_path):
    trace = tmp_path / 'trace'
    shutil.copytree(some_trace, trace)
    stacks = trace / 'stacks.hls'
    whole = stacks.read_bytes()
    named = []
    for length in [len(whole), len(whole) - 1, len(whole) // 2, 17, 16]:
        stacks.write_bytes(whole[:length])
        outcome = run([heapledger, 'dump', '--stacks', trace])
        assert outcome.status == 0, (length, outcome.stderr)
        named.append(outcome.stdout.count(b'\n    0x'))
    assert named == sorted(named, reverse=True) and named[0] > 100 and named[-1] == 0
