# SPDX-License-Identifier: MIT
"""What compare and the gate take for the same place of two builds: equal names of functions and
modules, in all frames where there are stacks, else the nearest; two callers of one helper are two."""

import json
import sys

import pytest

from conftest import SOURCE, run

sys.path.insert(0, str(SOURCE / 'reports'))
import pairing

PROGRAM = '''
#include <stdlib.h>
void *kept[64];
int used;
%s
__attribute__((noinline)) void grab(void)
{
	kept[used++] = malloc(200000);
}
__attribute__((noinline)) void one(int count)
{
	for (int i = 0; i < count; i++)
		grab();
	__asm__ volatile("" ::: "memory");
}
__attribute__((noinline)) void two(int count)
{
	for (int i = 0; i < count; i++)
		grab();
	__asm__ volatile("" ::: "memory");
}
int main(void)
{
	one(20);
	two(%d);
	return 0;
}
'''


def site(stack, module='/usr/bin/demo', **more):
    """A place by its functions, the innermost first."""
    frames = [{'function': name, 'module': module} for name in stack.split()]
    return {**frames[0], 'kept': None, 'frames': frames, **more}


def bare(function, module='/usr/bin/demo', **more):
    return {'function': function, 'module': module, 'kept': None, 'frames': None, **more}


def paired(before, after):
    """[(what it was called, what it is called now)], of the innermost and its caller."""
    pairs = pairing.nearest(before, after)
    assert sum(len(pair.before) for pair in pairs) == len(before)
    assert sum(len(pair.after) for pair in pairs) == len(after)
    return [(bool(pair.before) and pairing.chain(pair.was or pair.name),
             bool(pair.after) and pairing.chain(pair.name)) for pair in pairs]


def test_names_are_without_what_moves():
    old = bare('inflate.constprop.0', '/usr/lib/libz.so.1.2.13', line=7)
    new = bare('inflate', '/opt/new/libz.so.1.3', line=9)
    other = bare('deflate_fast', '/opt/new/libz.so.1.3', line=7)
    pairs = pairing.nearest([old], [other, new])
    assert [(pair.before, pair.after) for pair in pairs] == [([], [other]), ([old], [new])]


def test_without_stacks_a_function_is_the_one_most_like_it_in_its_module():
    before = [bare('parse_line'), bare('parse_line', 'libx.so'), bare('old_reader')]
    after = [bare('parse_line'), bare('old_reader2'), bare('parse_line', 'liby.so')]
    assert paired(before, after) == [
        ('parse_line', 'parse_line'), ('old_reader', 'old_reader2'), (False, 'parse_line'),
        ('parse_line', False)]


def test_callers_of_one_helper_are_told_apart():
    before = [site('get one main'), site('get two main')]
    after = [site('get two main', line=99), site('get one main', line=98)]
    assert paired(before, after) == [('get < two < main',) * 2, ('get < one < main',) * 2]


def test_a_function_that_was_renamed_is_so_in_all_stacks():
    before = [site('get_line one main'), site('get_line two main'), site('keep get_line main')]
    after = [site('get_lines two main'), site('get_lines one main'), site('keep get_lines main')]
    assert paired(before, after) == [
        ('get_line < two < main', 'get_lines < two < main'),
        ('get_line < one < main', 'get_lines < one < main'),
        ('keep < get_line < main', 'keep < get_lines < main')]


def test_the_nearest_stack_has_the_longest_common_run_from_the_top():
    before = [site('get abc x main'), site('get def y main'), site('get def z main')]
    after = [site('get def new main'), site('get ghi x main')]
    assert paired(before, after) == [
        ('get < def < y < ...', 'get < def < new < ...'),
        ('get < abc < x < ...', 'get < ghi < x < ...'),
        ('get < def < z < ...', False)]


def test_another_place_is_not_near_whoever_called_it():
    assert paired([site('get main')], [site('put main')]) == [
        (False, 'put < main'), ('get < main', False)]


def test_where_one_side_has_no_stacks_places_are_functions():
    assert paired([bare('get')], [site('get one'), site('get two')]) == [('get', 'get')]


def test_equal_rows_are_one_name():
    (pair,) = pairing.nearest([site('get main', line=1), site('get main', line=2)],
                              [site('get main', line=3)])
    assert (len(pair.before), len(pair.after), pair.was) == (2, 1, None)


@pytest.fixture(scope='module')
def traces(heapledger, tmp_path_factory):
    """Of two builds: in the second all lines moved, and `two` asks 12 times more."""
    folder = tmp_path_factory.mktemp('callers')
    for name, more, count in ('before', '', 20), ('after', 'int added;\n' * 40, 32):
        source = folder / f'{name}.c'
        source.write_text(PROGRAM % (more, count))
        program = folder / name / 'program'
        program.parent.mkdir()
        built = run(['gcc', '-g', '-O1', '-fno-optimize-sibling-calls', '-o', program, source])
        assert built.status == 0, built
        outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '--stacks', '8', '-o',
                       folder / f'{name}.hl', '--', program])
        assert outcome.status == 0, outcome
    return folder / 'before.hl', folder / 'after.hl'


def test_compare_says_which_caller_asks_for_more(heapledger, traces):
    data = json.loads(run([heapledger, 'compare', '--json', '-', *traces]).stdout)
    grabbed = {row['frames'][1]['function']: (row['before'], row['after'])
               for row in data['places']['end'] if row['function'] == 'grab'}
    assert grabbed == {'one': (4_000_000, 4_000_000), 'two': (4_000_000, 6_400_000)}
    text = ' '.join(run([heapledger, 'compare', *traces]).stdout.decode().split())
    assert '+2.29 MiB grab < two < main < ... in program' in text


def test_the_gate_says_which_caller_asks_for_more(heapledger, traces, tmp_path):
    made = run([heapledger, 'check', traces[0], '--baseline', tmp_path / 'b.json', '--update'])
    assert made.status == 0, made
    outcome = run([heapledger, 'check', traces[1], '--baseline', tmp_path / 'b.json'])
    assert outcome.status == 1, outcome
    text = ' '.join(outcome.stdout.decode().split())
    assert 'grew +2.29 MiB grab < two < main < ... in program: 3.81 MiB -> 6.10 MiB' in text
    assert 'grab < one' not in text
    assert run([heapledger, 'check', traces[0], '--baseline', tmp_path / 'b.json']).status == 0


def test_frames_are_those_of_the_dump_and_only_if_wanted(heapledger, traces):
    data = json.loads(run([heapledger, 'analyze', '--stacks', '--json', '-', traces[0]]).stdout)
    sites = {tuple(frame['function'] for frame in row['frames'][:3]): row
             for row in data['moments'][-1]['sites'] if row['function'] == 'grab'}
    assert set(sites) == {('grab', 'one', 'main'), ('grab', 'two', 'main')}
    assert sites['grab', 'two', 'main']['frames'][0]['module'].endswith('/before/program')
    data = json.loads(run([heapledger, 'analyze', '--json', '-', traces[0]]).stdout)
    assert {row['frames'] for row in data['moments'][-1]['sites']} == {None}
