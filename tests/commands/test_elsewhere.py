# SPDX-License-Identifier: MIT
"""Programs that have a malloc of their own: their calls do not come to the library, and nothing is
said of their heap that nobody measured."""

import json
import os
import signal
import subprocess

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, child_of, run, session, sound, wait_for

OWN = 'a malloc of '
PROGRAM = 'victim_own_malloc'


def record(heapledger, trace, *words):
    return run([heapledger, 'record', '--kernel', 'off', '-o', trace, *words])


def told(count):
    return (f'heapledger: record: {count} process image{" has" if count == 1 else "s have"} a malloc of '
            f'{"its" if count == 1 else "their"} own, whose calls are not recorded (attach --malloc does '
            f'that): {PROGRAM}{"" if count == 1 else f" ({count})"}\n').encode()


def assert_unknown(figures):
    """No count, no byte and no heap; resident memory is the kernel's, and known."""
    assert figures['events']['calls'] is figures['events']['by_call'] is None
    assert figures['syscalls']['total'] is figures['syscalls']['by_cause'] is None
    for moment in figures['peak'], figures['end']:
        assert {name for name in moment if name.endswith('_bytes') and moment[name] is not None} \
            <= {'rss_bytes'}, moment
    for name in 'returned_bytes', 'returned', 'free_to_return', 'pins', 'thrash', 'faults':
        assert figures[name] is None, name
    assert set(figures['fragmentation'].values()) == {None} and not figures['moments']


def assert_all_unknown(analysis):
    assert not analysis['complete'] and not analysis['findings']
    assert any(OWN in note for note in analysis['notes']), analysis['notes']
    assert_unknown(analysis)
    for process in analysis['processes']:
        assert process['malloc_elsewhere'] and process['complete']
        assert_unknown(process)


@pytest.mark.parametrize('options', [
    [], ['--observe'], ['--stacks', '8'], ['--ring', '1M'], ['--start-after', '50ms'], ['-q']])
def test_nothing_is_known_of_its_heap(heapledger, victims, trace, options):
    outcome = record(heapledger, trace, *options, victims / PROGRAM, 1000, 'wait')
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'1000\n', told(1))
    assert_all_unknown(analyze(heapledger, trace))
    assert session(trace)['complete']


def test_no_table_says_more(heapledger, victims, trace, tmp_path):
    """Nor do exports: of its blocks from posix_memalign, of the library's own start, of page faults."""
    record(heapledger, trace, victims / PROGRAM, 1000, 'aligned')
    outcome = run([heapledger, 'analyze', trace, '--csv', tmp_path / 'csv'])
    assert outcome.status == 0, outcome
    for table in 'sizes', 'lifetimes', 'syscalls', 'return_latency', 'fragmentation':
        assert len((tmp_path / 'csv' / f'{table}.csv').read_text().splitlines()) == 1, table
    timeline = (tmp_path / 'csv' / 'timeline.csv').read_text().splitlines()
    for row in timeline[1:]:
        known = {name for name, value in zip(timeline[0].split(','), row.split(',')) if value}
        assert known <= {'stream', 'time_ns', 'thrash_cycles'}, row
    for value in 'allocated', 'syscalls':
        outcome = run([heapledger, 'export', '--format', 'collapsed', '--value', value, trace])
        assert PROGRAM.encode() not in outcome.stdout, outcome


def test_what_is_printed_names_it(heapledger, victims, trace):
    record(heapledger, trace, victims / PROGRAM, 1000)
    outcome = run([heapledger, 'analyze', trace])
    text = ' '.join(outcome.stdout.decode().split())
    assert f'INCOMPLETE: {PROGRAM} has a malloc of its own, whose calls are not recorded' in text
    assert 'unknown allocator calls, unknown system calls' in text
    for absent in ' 0 B', 'What to make of it', 'Why it has not gone back', 'idle':
        assert absent not in text, text


@pytest.mark.parametrize('words, images', [
    ([1000, 'fork'], 2),     # the copy, too
    ([1000, 'aligned'], 1)])  # posix_memalign comes to the library
def test_forks_and_calls_that_come_all_the_same(heapledger, victims, trace, words, images):
    outcome = record(heapledger, trace, victims / PROGRAM, *words)
    assert (outcome.status, outcome.stderr) == (0, told(images))
    analysis = analyze(heapledger, trace)
    assert len(analysis['processes']) == images
    assert_all_unknown(analysis)


def test_without_record(heapledger, victims, library, tmp_path):
    folder = tmp_path / 'raw'
    folder.mkdir()
    outcome = run([victims / PROGRAM, 1000],
                  env={'LD_PRELOAD': str(library), 'HEAPLEDGER_OUT': str(folder)})
    assert (outcome.status, outcome.stdout) == (0, b'1000\n')
    assert_all_unknown(analyze(heapledger, folder))


def test_other_processes_keep_their_figures(heapledger, victims, tmp_path):
    """One child more, of which nothing is known, changes none of their counts."""
    script, analyses = 'ls / >/dev/null; {} ls / >/dev/null', {}
    for name, command in ('with', f'{victims / PROGRAM} 1000;'), ('without', ''):
        outcome = record(heapledger, tmp_path / name, 'bash', '-c', script.format(command))
        assert outcome.status == 0 and (OWN.encode() in outcome.stderr) == (name == 'with')
        analyses[name] = analyze(heapledger, tmp_path / name)
    alone, both = analyses['without'], analyses['with']
    assert alone['complete'] and not both['complete']
    own = [process for process in both['processes'] if process['malloc_elsewhere']]
    assert [process['command'][0] for process in own] == [str(victims / PROGRAM)]
    assert_unknown(own[0])

    def calls(analysis):
        """The shell's and its copy's that became the program are not twice the same."""
        return [process['events']['calls'] for process in analysis['processes']
                if process['command'][0] == 'ls']
    assert calls(both) == calls(alone) and len(calls(both)) == 2
    known = [process for process in both['processes'] if not process['malloc_elsewhere']]
    assert both['events']['calls'] == sum(process['events']['calls'] for process in known)
    assert both['syscalls']['total'] == sum(process['syscalls']['total'] for process in known)
    assert both['main_stream'] != own[0]['stream'] and both['peak']['mapped_bytes'] > 0


@pytest.mark.parametrize('last', ['victim_malloc_address', 'victim_own_malloc'])
def test_the_main_process_is_a_known_one(heapledger, victims, trace, last):
    """Be it the last, and small: of the others nobody knows how large their heap is."""
    own = victims / PROGRAM
    assert record(heapledger, trace, own, 1000, 'exec', own, 1000, 'exec', victims / last).status == 0
    analysis = analyze(heapledger, trace)
    known = last != PROGRAM
    assert [process['malloc_elsewhere'] for process in analysis['processes']] == [True, True, not known]
    assert (analysis['main_stream'] == analysis['processes'][-1]['stream']) == known
    assert (analysis['peak']['mapped_bytes'] is not None) == known
    printed = run([heapledger, 'analyze', trace]).stdout.decode()
    assert ('= all' in printed) and known == (' 0 B' in printed)


def test_while_it_runs_and_when_the_recorder_is_killed(heapledger, victims, trace):
    with subprocess.Popen([heapledger, 'record', '--kernel', 'off', '-o', trace, '--', 'sh', '-c',
                           f'{victims / PROGRAM} 10 wait; sleep 10'], env=CLEAN_ENVIRONMENT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(trace.glob('*.hlt'))) >= 2)
        child = child_of(process)
        running = analyze(heapledger, trace)
        process.kill()
        process.wait()
        killed = analyze(heapledger, trace)
        os.kill(child, signal.SIGKILL)
    for analysis in running, killed:
        own = [process for process in analysis['processes'] if process['malloc_elsewhere']]
        assert len(own) == 1 and own[0]['events']['calls'] is None, analysis['processes']
        assert not analysis['complete']


def test_a_window_is_as_the_whole(heapledger, victims, trace):
    record(heapledger, trace, 'bash', '-c', f'{victims / PROGRAM} 10; sleep 0.2; ls /')
    outcome = run([heapledger, 'analyze', '--from', '100ms', '--json', '-', trace])
    assert outcome.status == 0 and not json.loads(outcome.stdout)['complete']


def test_exec_of_a_program_that_has_none(heapledger, victims, trace):
    outcome = record(heapledger, trace, victims / PROGRAM, 1000, 'exec', '/bin/ls', '/')
    assert outcome.status == 0 and outcome.stderr == told(1)
    first, second = analyze(heapledger, trace)['processes']
    assert first['malloc_elsewhere'] and not second['malloc_elsewhere']
    assert second['events']['calls'] > 0


def test_the_address_of_malloc_is_no_malloc(heapledger, victims, trace):
    """A program that takes it can have it in its own table of calls."""
    outcome = record(heapledger, trace, victims / 'victim_malloc_address')
    assert (outcome.status, outcome.stderr) == (0, b'')
    assert sound(heapledger, trace)['events']['calls'] == 2000


def test_a_library_that_passes_calls_on(heapledger, victims, trace):
    """libpassing.so has them first, and gives them to the next one: they are recorded."""
    outcome = record(heapledger, trace, 'env', f'LD_PRELOAD={victims / "libpassing.so"}:'
                     f'{heapledger.parents[1] / "interposer" / "libheapledger.so"}',
                     'bash', '-c', 'for i in 1 2 3; do (:); done; ls /')
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    analysis = sound(heapledger, trace)
    assert not any(process['malloc_elsewhere'] for process in analysis['processes'])
    assert analysis['events']['calls'] > 1000


def test_a_program_that_passes_its_calls_on(heapledger, victims, trace):
    outcome = record(heapledger, trace, victims / 'victim_passing')
    assert (outcome.status, outcome.stderr) == (0, b'')
    assert sound(heapledger, trace)['events']['calls'] >= 2000


def test_no_budget_is_kept_by_what_nobody_counted(heapledger, victims, trace, tmp_path):
    record(heapledger, trace, victims / PROGRAM, 1000)
    budget = tmp_path / 'budget.toml'
    budget.write_text('[syscalls]\ntotal = 1000\n')
    outcome = run([heapledger, 'check', trace, '--budget', budget])
    assert outcome.status == 4 and f'{PROGRAM} has a malloc of its own'.encode() in outcome.stdout, outcome


def test_the_report_names_it(heapledger, victims, trace, tmp_path):
    record(heapledger, trace, victims / PROGRAM, 1000, 'fork')
    page = tmp_path / 'page.html'
    outcome = run([heapledger, 'report', trace, '-o', page])
    assert outcome.status == 0, outcome
    text = page.read_text()
    assert 'INCOMPLETE: 2 of 2 process images have a malloc of their own' in text
    assert 'attach --malloc' in text and 'held at most' not in text


def test_the_format_says_so(heapledger, victims, trace):
    """Bit 1 of the flags, at offset 16 of the header; INCOMPLETE is bit 0."""
    record(heapledger, trace, victims / PROGRAM, 1000, 'exec', '/bin/true')
    flags = {stream['file']: (trace / stream['file']).read_bytes()[16:20]
             for stream in json.loads((trace / 'session.json').read_text())['streams']}
    assert list(flags.values()) == [b'\x02\0\0\0', b'\0\0\0\0']
