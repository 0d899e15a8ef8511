# SPDX-License-Identifier: MIT
"""`heapledger compare` runs a program in all the ways it says, with nothing of a recorder in the
runs that are timed; its figures are those of the recordings; what failed or was not measured is
said. Of two traces it pairs what is the same in the code, wherever its lines went."""

import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from analysis_fixture import REPORTS
from conftest import CLEAN_ENVIRONMENT, analyze, run

SYSCALLS = ('brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect')
TIMEOUT = 60

PROGRAM = '''
#include <stdlib.h>
static void *kept[64];
%s
__attribute__((noinline)) void *grab(int number)
{
	kept[number] = malloc(200000);
	return kept[number];
}
__attribute__((noinline)) void fill(int count)
{
	for (int i = 0; i < count; i++)
		grab(i);
	__asm__ volatile("" ::: "memory");
}
int main(void)
{
	fill(%d);
	return 0;
}
'''


@pytest.fixture(scope='module')
def victim(build):
    return [build / 'tests' / 'victims' / 'victim_record_calls', 'count', '3000']


@pytest.fixture(scope='module')
def compared(heapledger, victim, tmp_path_factory):
    """(JSON, table) of a comparison of two rounds."""
    output = tmp_path_factory.mktemp('compared') / 'compared.json'
    outcome = run([heapledger, 'compare', '--runs', '2', '--observe', 'glibc', '--json', output,
                   '--', *victim])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    return json.loads(output.read_text()), outcome.stdout.decode().splitlines()


@pytest.fixture(scope='module')
def builds(heapledger, tmp_path_factory):
    """Traces of two builds of a program: in the second all lines moved, and it asks 12 times more."""
    folder = tmp_path_factory.mktemp('builds')
    for name, more, count in ('before', '', 20), ('after', 'int added;\n' * 40, 32):
        place = folder / name
        place.mkdir()
        (place / 'program.c').write_text(PROGRAM % (more, count))
        built = run(['gcc', '-g', '-O1', '-fno-optimize-sibling-calls', '-o', place / 'program',
                     place / 'program.c'])
        assert built.status == 0, built
        outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '--stacks', '8', '-o',
                       place / 'run.hl', '--', place / 'program'])
        assert outcome.status == 0, outcome
    return folder / 'before' / 'run.hl', folder / 'after' / 'run.hl'


@pytest.fixture(scope='module')
def changes(heapledger, builds):
    """The JSON of the comparison of both."""
    outcome = run([heapledger, 'compare', '--json', '-', *builds])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def variant(data, name):
    return next(row for row in data['variants'] if row['name'] == name)


def test_all_policies_and_the_named_allocator_run_in_every_round(compared):
    data, _ = compared
    assert data['schema'] == 'heapledger-compare/1'
    assert [row['name'] for row in data['variants']] == ['brk', 'mmap', 'hybrid', 'glibc']
    for row in data['variants']:
        assert row['complete'] and not row['failed'], row
        for name in ('wall_ns', 'minor_faults', 'allocator_calls', 'peak_requested_bytes'):
            figure = row['figures'][name]
            assert len(figure['runs']) == 2, (name, figure)
            assert figure['min'] == min(figure['runs']) > 0, (name, figure)
            assert figure['max'] == max(figure['runs']), (name, figure)
            assert figure['min'] <= figure['median'] <= figure['max'], (name, figure)


def test_each_policy_keeps_to_its_system_calls(compared):
    data, _ = compared
    assert variant(data, 'brk')['figures']['mmap_calls']['max'] == 0
    assert variant(data, 'brk')['figures']['brk_calls']['min'] > 0
    assert variant(data, 'mmap')['figures']['brk_calls']['max'] == 0
    assert variant(data, 'mmap')['figures']['mmap_calls']['min'] > 0


def test_the_counts_are_those_of_a_recording(compared, heapledger, victim, tmp_path):
    figures = variant(compared[0], 'brk')['figures']
    trace = tmp_path / 'trace'
    run([heapledger, 'record', '-q', '--kernel', 'off', '--policy', 'brk', '-o', trace, '--', *victim])
    analysis = analyze(heapledger, trace)
    assert figures['allocator_calls']['median'] == analysis['events']['calls']
    assert figures['peak_requested_bytes']['median'] == analysis['peak']['requested_bytes']
    assert figures['fragmentation_percent']['median'] == pytest.approx(
        analysis['fragmentation']['mapped']['at_peak_mapped'])
    for name in SYSCALLS:
        assert figures[f'{name}_calls']['runs'] == [analysis['syscalls'][name]] * 2, name


def test_the_table_has_80_columns_and_the_figures_of_the_json(compared):
    data, lines = compared
    assert max(len(line) for line in lines) <= 80, lines
    rows = [line.split() for line in lines]
    brk = [row for row in rows if row[:1] == ['brk'] and len(row) > 1 and row[1].isdigit()]
    wanted = [variant(data, name)['figures']['brk_calls'] for name in ('brk', 'mmap', 'hybrid')]
    assert brk[0][1:] == [str(figure['max']) for figure in wanted]
    heads = [row for row in rows if row and set(row) <= {'brk', 'mmap', 'hybrid', 'glibc'}]
    assert heads == [['brk', 'mmap', 'hybrid'], ['glibc']]


class Page(html.parser.HTMLParser):
    """The cells of its tables by rows, the labels of its drawings, and all that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.drawings, self.elsewhere, self.cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == 'tr':
            self.rows.append([])
        self.cell = tag in ('td', 'th')
        if self.cell:
            self.rows[-1].append('')
        if tag == 'svg':
            self.drawings.append(attributes['aria-label'])
        self.elsewhere += [value for name, value in attributes.items()
                           if name in ('src', 'href') and not value.startswith(('#', 'data:'))]
        assert tag not in ('script', 'link', 'b'), tag

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.cell = False


def test_the_page_has_the_table_and_a_map_of_each_policy(heapledger, victim, tmp_path):
    path = tmp_path / 'compared.html'
    for _ in range(2):  # its own page is replaced
        outcome = run([heapledger, 'compare', '--runs', '1', '--observe', 'glibc', '--html', path,
                       '--json', tmp_path / 'compared.json', '--', *victim, '<b>&'])
        assert (outcome.status, outcome.stderr) == (0, b''), outcome
    page = Page(path.read_text())
    data = json.loads((tmp_path / 'compared.json').read_text())
    assert not page.elsewhere
    assert ['', 'brk', 'mmap', 'hybrid', 'glibc'] in page.rows
    calls = [variant(data, name)['figures']['allocator_calls']['max']
             for name in ('brk', 'mmap', 'hybrid', 'glibc')]
    assert ['allocator calls', *(f'{number:,}' for number in calls)] in page.rows
    assert ['returned, %', '-'] in [row[::4] for row in page.rows]
    assert [label.split(': ')[0] for label in page.drawings] == [
        f'The heap by address, {name}' for name in ('brk', 'mmap', 'hybrid')]
    assert 'Break: ' in page.drawings[0] and 'Arena at ' in page.drawings[1]
    assert 'What glibc holds at which address is not known.' in path.read_text()


def test_what_an_allocator_does_not_tell_is_no_number(compared):
    data, lines = compared
    assert variant(data, 'glibc')['figures']['returned_percent'] is None
    second = lines[next(i for i, line in enumerate(lines) if line.split() == ['glibc']):]
    returned = next(line for line in second if line.startswith('  returned'))
    assert returned.split() == ['returned', '-']


def test_timed_runs_have_the_allocator_and_no_recorder(heapledger, library, tmp_path):
    """Even when the environment asks for one."""
    seen = tmp_path / 'seen'
    script = f'echo "${{HEAPLEDGER_SESSION:-none}} ${{HEAPLEDGER_OUT:-none}} $HEAPLEDGER_POLICY ' \
             f'$LD_PRELOAD" >> {seen}'
    outcome = run([heapledger, 'compare', '--runs', '1', '--policy', 'mmap,brk', '--', 'sh', '-c',
                   script], env={'HEAPLEDGER_OUT': str(tmp_path)})
    assert outcome.status == 0, outcome
    rows = [line.split() for line in seen.read_text().splitlines()]
    assert [row[0] == 'none' for row in rows] == [False, True, False, True]
    assert [row[1:] for row in rows] == [
        ['none', policy, str(library)] for policy in ('mmap', 'mmap', 'brk', 'brk')]


def test_an_observed_library_is_all_that_is_preloaded(heapledger, build, tmp_path):
    """A library by its path; here one that does nothing to malloc."""
    seen = tmp_path / 'seen'
    other = next((build / 'tests' / 'victims').glob('*.so'))
    outcome = run([heapledger, 'compare', '--runs', '1', '--policy', 'none', '--observe', other,
                   '--', 'sh', '-c', f'echo "$LD_PRELOAD" >> {seen}'])
    assert outcome.status == 0, outcome
    recorded, bare = seen.read_text().splitlines()
    assert bare == str(other)
    assert recorded.split(':')[1:] == [str(other)]


def test_a_program_that_fails_is_said_and_compared(heapledger):
    outcome = run([heapledger, 'compare', '--runs', '1', '--policy', 'brk', '--', 'sh', '-c',
                   'echo "no such table" >&2; exit 3'])
    assert outcome.status == 1
    text = outcome.stdout.decode()
    assert 'brk: the program failed in 2 of 2 runs, with status 3\n  no such table\n' in text
    assert 'allocator calls' in text


def test_a_failure_of_one_run_alone_is_a_failure(heapledger, tmp_path):
    seen = tmp_path / 'seen'
    script = f'echo >> {seen}; [ $(wc -l < {seen}) != 4 ] || kill -KILL $$'
    outcome = run([heapledger, 'compare', '--runs', '2', '--policy', 'brk', '--json', '-', '--',
                   'sh', '-c', script])
    assert outcome.status == 1, outcome
    assert json.loads(outcome.stdout)['variants'][0]['failed'] == [
        {'run': 2, 'recorded': False, 'status': 128 + signal.SIGKILL}]


@pytest.mark.parametrize('options, each', [([], b''), (['--stdin', '-'], b'one\ntwo\n')])
def test_every_run_reads_the_same(heapledger, tmp_path, options, each):
    seen = tmp_path / 'seen'
    outcome = run([heapledger, 'compare', '--runs', '1', '--policy', 'brk', *options, '--', 'sh', '-c',
                   f'cat >> {seen}'], input=b'one\ntwo\n')
    assert outcome.status == 0, outcome
    assert seen.read_bytes() == each * 2


def test_output_is_discarded_or_shown(heapledger):
    command = ['--runs', '1', '--policy', 'brk', '--', 'sh', '-c', 'echo printed']
    assert run([heapledger, 'compare', *command]).stderr == b''
    shown = run([heapledger, 'compare', '--show', *command])
    assert shown.stderr == b'printed\n' * 2
    assert b'printed' not in shown.stdout.split(b'\n', 1)[1]


@pytest.mark.parametrize('words, said', [
    ([], 'a command behind --, or two trace directories, are needed'),
    (['one'], 'a command behind --, or two trace directories, are needed'),
    (['--runs', '3', 'a', 'b'], '--runs: is for a command, not for traces'),
    (['a', '--', 'true'], 'a: is neither an option nor behind --'),
    (['--runs', '0', '--', 'true'], '--runs 0: must be 1 to 1000'),
    (['--policy', 'best', '--', 'true'], '--policy best: is none of brk, mmap, hybrid'),
    (['--policy', 'brk,brk', '--', 'true'], '--policy brk,brk: has a name twice, or an empty one'),
    (['--policy', 'none', '--', 'true'], '--policy none: needs --observe'),
    (['--observe', 'fastest', '--', 'true'], '--observe fastest: is none of'),
    (['--observe', './none.so', '--', 'true'], '--observe ./none.so: no such file'),
    (['--stdin', 'none', '--', 'true'], '--stdin none: is not a file'),
    (['--json', 'notes', '--', 'true'], 'notes: exists and was not written by heapledger compare'),
    (['--html', 'notes', '--', 'true'], 'notes: exists and was not written by heapledger compare'),
    (['--html', 'new', '--json', './new', '--', 'true'], '--json and --html name the same file'),
    (['--html', 'new', 'a', 'b'], '--html: is for a command, not for traces'),
    (['--', './no-such-program'], './no-such-program'),
])
def test_wrong_usage_is_one_line_and_nothing_is_written(heapledger, tmp_path, words, said):
    (tmp_path / 'notes').write_text('mine')
    outcome = run([heapledger, 'compare', *words], cwd=tmp_path)
    assert outcome.status == 2, outcome
    assert said in outcome.stderr.decode()
    assert outcome.stdout == b''
    assert (tmp_path / 'notes').read_text() == 'mine'


@pytest.mark.parametrize('verb', [['compare'], ['check', '--runs', '2', '--budget', 'heap.toml']])
def test_a_program_that_cannot_be_recorded_is_no_evidence(heapledger, build, tmp_path, verb):
    (tmp_path / 'heap.toml').write_text('events.calls = 1\n')
    outcome = run([heapledger, *verb, '--', build / 'tests' / 'victims' / 'victim_attached_static'],
                  cwd=tmp_path)
    assert outcome.status == 4, outcome
    assert b'statically linked' in outcome.stderr


@pytest.mark.parametrize('verb', [['compare'], ['check', '--runs', '2', '--budget', 'heap.toml']])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_program_and_leaves_nothing(heapledger, tmp_path, verb, number):
    (tmp_path / 'heap.toml').write_text('events.calls = 1\n')
    scratch, seen = tmp_path / 'scratch', tmp_path / 'seen'
    scratch.mkdir()
    process = subprocess.Popen(
        [heapledger, *verb, '--json', tmp_path / 'out.json', '--', 'sh', '-c',
         f'echo $$ > {seen}.new; mv {seen}.new {seen}; exec sleep 600'], start_new_session=True, cwd=tmp_path,
        env={**CLEAN_ENVIRONMENT, 'TMPDIR': str(scratch)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + TIMEOUT
        while not seen.exists() and time.monotonic() < end:
            time.sleep(0.01)
        pid = int(seen.read_text())
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, stderr
    assert stdout == b''
    assert not os.path.exists(f'/proc/{pid}')
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / 'out.json').exists()


def test_two_traces_differ_by_what_was_added_and_nothing_else(changes):
    assert changes['schema'] == 'heapledger-compare-traces/1'
    assert changes['figures']['mmap_calls']['after'] - changes['figures']['mmap_calls']['before'] == 12
    changed = [row for row in changes['causes'] if row['before'] != row['after']]
    assert [(row['syscall'], row['call'], row['after'] - row['before']) for row in changed] == [
        ('mmap', 'malloc', 12)]
    place = changes['places']['end'][0]
    assert (place['module'], place['function']) == ('program', 'grab')
    assert (place['before'], place['after']) == (20 * 200000, 32 * 200000)


def test_stacks_are_paired_when_their_lines_moved(changes):
    changed = [row for row in changes['stacks'] if row['before'] != row['after']]
    assert [(row['before'], row['after']) for row in changed] == [(20, 32)]
    assert [frame['function'] for frame in changed[0]['frames'][:3]] == ['grab', 'fill', 'main']


def test_two_traces_in_words(heapledger, builds):
    lines = run([heapledger, 'compare', *builds]).stdout.decode().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert ['mmap', '20', '32', '+12', '+60.0', '%'] in [line.split() for line in lines]
    words = ' '.join(' '.join(lines).split())
    assert 'mmap in malloc: grab < fill < main < ...' in words


def test_percentages_differ_by_points():
    sys.path.insert(0, str(REPORTS))
    import compare_traces
    change = compare_traces.Change('returned_percent', 20.0, 25.5, None)
    assert compare_traces._figure_line(change, 'returned').split() == [
        'returned', '20.0', '%', '25.5', '%', '+5.5', 'points']


def test_a_trace_is_as_itself(heapledger, builds):
    data = json.loads(run([heapledger, 'compare', '--json', '-', builds[0], builds[0]]).stdout)
    rows = [*data['figures'].values(), *data['causes'], *data['stacks'], *data['places']['end']]
    assert len(rows) > 10
    assert all(row['before'] == row['after'] for row in rows)


@pytest.mark.disorder
def test_a_trace_with_events_missing_is_no_evidence(heapledger, builds, tmp_path):
    cut = tmp_path / 'cut.hl'
    shutil.copytree(builds[1], cut)
    session = json.loads((cut / 'session.json').read_text())
    (cut / 'session.json').write_text(json.dumps({**session, 'complete': False}))
    outcome = run([heapledger, 'compare', builds[0], cut])
    assert outcome.status == 4, outcome
    assert b'not enough evidence: events are missing' in b' '.join(outcome.stdout.split())


def test_a_directory_that_is_no_trace_is_unreadable(heapledger, builds, tmp_path):
    outcome = run([heapledger, 'compare', builds[0], tmp_path])
    assert outcome.status == 3, outcome
    assert outcome.stdout == b''
