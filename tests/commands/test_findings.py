# SPDX-License-Identifier: MIT
"""The sentences of `heapledger analyze` on programs whose heaps keep memory for known reasons, and
that its remedies return what they promise: to the program on glibc's own allocator, as the kernel
counts it. And what a process tells of its caches."""

import csv
import json
import re

import pytest

from conftest import analyze, existing, ledger_adds_up, run
from trace_script import make_trace


@pytest.fixture
def victim(victims):
    return existing(victims / 'victim_trimmed')


def record(heapledger, trace, command, *options):
    outcome = run([heapledger, 'record', '-q', '-o', trace, *options, '--', *command])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    outcome = run([heapledger, 'analyze', '--json', '-', trace])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def summary(heapledger, trace):
    outcome = run([heapledger, 'analyze', trace])
    text = outcome.stdout.decode()
    assert max(map(len, text.splitlines())) <= 80
    return ' '.join(text[text.index('What to make of it'):].split())


def end(data):
    return data['moments'][-1]


@pytest.mark.parametrize('mode, count, kinds', [
    ('cache', 30000, ['whole_pages']),
    ('pages', 2000, ['whole_pages', 'in_use']),
    ('checker', 20000, ['in_use', 'partial_pages']),
    ('fast', 40000, ['partial_pages']),
    ('top', 15000, ['top']),
    ('use', 5000, ['in_use']),
    ('none', 5000, []),
])
def test_what_is_found_and_what_malloc_trim_returns(heapledger, victim, trace, mode, count, kinds):
    data = record(heapledger, trace, [victim, mode, count], '--stacks', '8')
    # How long system calls take is the machine's affair.
    findings = [one for one in data['findings'] if one['kind'] != 'system_calls']
    for moment in data['moments']:
        ledger_adds_up(moment)
    assert {finding['kind'] for finding in findings} == set(kinds), findings
    sizes = [finding['bytes'] for finding in data['findings']]
    assert sizes == sorted(sizes, reverse=True)
    text = summary(heapledger, trace)
    for finding in findings:
        assert ' '.join(finding['sentence'].split()) in text
        assert finding['remedy'] is None or finding['remedy'] in text
    if len(findings) == len(data['findings']):
        assert ('Little memory lies idle in this heap' in text) == (kinds in ([], ['in_use']))
    # What the remedy brings when the program takes it, on glibc.
    before, after = map(int, run([victim, mode, count, 'trim']).stdout.split())
    returned = (before - after) * 1024
    moment = end(data)
    promised = moment['trim_bytes'] + moment['trim_top_bytes']
    assert promised == pytest.approx(returned, rel=0.1, abs=65536), (promised, returned)
    named = sum(finding['promised_bytes'] or 0 for finding in findings)
    assert named == pytest.approx(returned if named else 0, rel=0.1, abs=262144)


def test_the_cache_is_named_as_what_holds_the_break(heapledger, victim, trace):
    """200,000 mixed blocks of which nothing is left: 640 MiB stay, for some cached blocks."""
    data = record(heapledger, trace, [victim, 'cache', 200000])
    moment = end(data)
    assert moment['caches_known'] is True and moment['ledger']['requested_bytes'] == 0
    assert {holder['kept'] for holder in moment['break']['holders']} <= {'cache', 'fast', 'lent'}
    finding = data['findings'][0]
    assert finding['kind'] == 'whole_pages'
    assert 'below a freed block that the thread\'s cache keeps' in finding['sentence']
    before, after = map(int, run([victim, 'cache', '200000', 'trim']).stdout.split())
    assert before - after > 600 * 1024
    promised = moment['trim_bytes'] + moment['trim_top_bytes']
    assert promised == pytest.approx((before - after) * 1024, rel=0.01)


def test_who_holds_it_is_named_by_function_and_line(heapledger, victim, trace):
    data = record(heapledger, trace, [victim, 'checker', 20000], '--stacks', '8')
    found = {finding['kind']: finding for finding in data['findings']}
    assert re.search(r'10,000 blocks from fill \(trimmed\.c:\d+\)', found['partial_pages']['sentence'])
    assert 'No call returns it.' in found['partial_pages']['remedy']
    assert found['partial_pages']['promised_bytes'] is None
    site = end(data)['sites'][0]
    assert (site['function'], site['blocks'], site['smallest_bytes']) == ('fill', 10000, 2000)


def test_fast_lists_that_hold_pages_are_named_and_emptied(heapledger, victim, trace):
    """No block of the program is left, and what is free lies in small pieces between those they keep."""
    data = record(heapledger, trace, [victim, 'fast', 40000])
    finding = data['findings'][0]
    assert re.search(r'beside 19,\d\d\d freed blocks that a fast list keeps', finding['sentence']), finding
    assert finding['remedy'].startswith('malloc_trim(0) would return ')


def test_without_stacks_the_caller_is_named(heapledger, victim, trace):
    data = record(heapledger, trace, [victim, 'checker', 20000])
    sentence = next(one['sentence'] for one in data['findings'] if one['kind'] == 'in_use')
    assert re.search(r'10,000 blocks from fill \(trimmed\.c:\d+\)\.$', sentence), sentence


def test_a_caller_in_no_file_is_an_address(heapledger, victim, trace):
    """As code that was made at run time is; here the note of what was loaded is lost."""
    record(heapledger, trace, [victim, 'checker', 20000])
    (trace / 'stacks.hls').unlink()
    sentence = next(one['sentence'] for one in analyze(heapledger, trace)['findings'] if one['kind'] == 'in_use')
    assert re.search(r'from 0x[0-9a-f]+ \(record --stacks 16 gives names\)', sentence), sentence


def test_in_a_program_without_names_the_place_is_an_address_in_it(heapledger, victim, trace, tmp_path):
    """And not the next function up that has one, libc's that called main."""
    program = tmp_path / 'nameless'
    assert run(['strip', '--strip-all', '-o', program, victim]).status == 0
    data = record(heapledger, trace, [program, 'checker', 20000], '--stacks', '8')
    sentence = next(one['sentence'] for one in data['findings'] if one['kind'] == 'in_use')
    said = re.search(r'in 10,000 blocks from nameless\+0x([0-9a-f]+)\.', sentence)
    assert said, sentence
    (site,) = (site for site in end(data)['sites'] if site['blocks'] == 10000)
    assert (site['function'], site['offset']) == (None, int(said.group(1), 16))
    assert site['module'] == str(program)
    names = run(['addr2line', '-f', '-i', '-e', victim, hex(site['offset'] - 1)]).stdout.decode()
    assert 'fill' in names.split(), names


@pytest.mark.parametrize('resident, said', [
    (1 << 20, ' By the last sample no more than 3.00 MiB of the process was in memory.'),
    (80 << 20, '')])
def test_more_than_is_in_memory_is_not_promised_without_saying_so(
        heapledger, build, tmp_path, resident, said):
    """A block of 64 MiB at the break, freed below one of 100 bytes; nobody knows whether it was written."""
    start, high = 0x555555560000, 0x555559560000
    trace = make_trace(build, tmp_path / 'trace', f'''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 {start:#x} 0 {high + 4096:#x} {high + 4096:#x} 2000 1 2 1
call 7 1100 1 {start + 16:#x} {(64 << 20) - 32} {(64 << 20) - 16} 0 0
call 7 1200 1 {high:#x} 100 112 0 0
sample 0 1500 {resident} {2 << 20} 0 {resident + (2 << 20)} 0
call 7 1600 9 {start + 16:#x} 0 0 0 0
close 1 1 0 2000 0
''')
    outcome = run([heapledger, 'analyze', '--json', '-', trace])
    assert outcome.status == 0, outcome
    (finding,) = json.loads(outcome.stdout)['findings']
    assert finding['kind'] == 'whole_pages'
    assert finding['remedy'].startswith('malloc_trim(0) would return 64.0 MiB')
    assert finding['remedy'].partition(' By the last')[1:] == (
        (' By the last', said.removeprefix(' By the last')) if said else ('', ''))


def test_kept_blocks_are_those_that_were_freed(heapledger, victim, trace):
    """Each was freed by the program and not handed out since; a size has 7 in the cache at most."""
    record(heapledger, trace, [victim, 'cache', 3000])
    live, freed, kept = set(), set(), []
    for line in run([heapledger, 'dump', '--no-time', trace]).stdout.decode().splitlines():
        words = line.split()
        if words[1] == '0':  # what the recorder reads is test_caches.py's
            continue
        if 'malloc' in words:
            address = words[words.index('=') + 1]
            live.add(address)
            freed.discard(address)
        elif 'free' in words:
            live.discard(words[words.index('free') + 1])
            freed.add(words[words.index('free') + 1])
        elif 'kept' in words:
            told = words[words.index('kept') + 1:]
            kept = [told] if told[0].startswith('blocks=') else [*kept, told]
    (count, *flags), *blocks = kept
    assert int(count.split('=')[1]) == len(blocks) and flags == ['all', 'caches=1']
    by_size = {}
    for address, chunk, what, *_ in blocks:
        if what == 'table':
            continue
        assert address in freed and address not in live, address
        by_size.setdefault((what, chunk), []).append(address)
    assert sum(len(list_) for (what, _), list_ in by_size.items() if what == 'cache') > 50
    assert all(len(list_) <= 7 for (what, _), list_ in by_size.items() if what == 'cache')


def test_a_process_that_had_threads_knows_its_caches_at_the_end(heapledger, build, trace):
    data = record(heapledger, trace,
                  [build / 'tests' / 'victims' / 'victim_record_calls', 'threads', '1000', '2'],
                  '--residency', 'off')
    assert end(data)['caches_known'] is True
    assert end(data)['caches'] == {'total': 1, 'known': 1, 'unread_lists': 0}


def cycles(data, kind):
    return data['thrash'][kind]['cycles']


@pytest.mark.parametrize('mode, kind, call, env', [
    ('thrash', 'break', 'brk', {}),
    ('remap', 'block', 'mmap', {'MALLOC_MMAP_THRESHOLD_': '131072'}),
])
def test_thrash_is_found_and_the_threshold_stops_it(heapledger, victim, tmp_path, mode, kind, call, env):
    def recorded(name, **more):
        outcome = run([heapledger, 'record', '-q', '-o', tmp_path / name, '--', victim, mode, '200'],
                      env={**env, **more})
        assert outcome.status == 0 and outcome.stderr == b'', outcome
        return json.loads(run([heapledger, 'analyze', '--json', '-', '--csv', tmp_path / f'{name}.csv',
                               tmp_path / name]).stdout)

    before = recorded('before')
    # The first round has nothing to take again, and the last is not asked for again.
    assert cycles(before, kind) == 199
    with open(tmp_path / 'before.csv' / 'timeline.csv') as file:
        line = [int(row['thrash_cycles']) for row in csv.DictReader(file)]
    assert line == sorted(line) and line[-1] == sum(cycles(before, each) for each in ('break', 'block'))
    assert len(set(line)) > 10  # they are spread over the run
    assert before['syscalls'][call] >= 199
    finding, = [one for one in before['findings'] if one['kind'] == 'thrash']
    assert finding['sentence'].startswith('199 times ')
    advice = dict(re.findall(r'M_(\w+)=(\d+)', finding['remedy']))
    after = recorded('after', **{f'MALLOC_{name}_': value for name, value in advice.items()})
    assert cycles(after, kind) == 0 and cycles(after, 'break') == 0
    assert after['syscalls'][call] < before['syscalls'][call] / 5
    assert not [one for one in after['findings'] if one['kind'] == 'thrash']


@pytest.mark.parametrize('mode, count', [('use', 5000), ('cache', 30000)])
def test_a_program_that_does_not_thrash(heapledger, victim, trace, mode, count):
    data = record(heapledger, trace, [victim, mode, count])
    assert cycles(data, 'break') < 10 and cycles(data, 'block') < 10
    assert not [one for one in data['findings'] if one['kind'] == 'thrash']
