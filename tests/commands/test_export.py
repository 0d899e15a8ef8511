# SPDX-License-Identifier: MIT
"""`heapledger export`: what other tools read agrees with what `analyze` says of the same recording, to
the byte: collapsed stacks in flamegraph.pl, pprof as protoc decodes it by the official profile.proto and
in pprof, trace-event JSON by a schema (in its viewer: test_trace_viewer.py), CSV in sqlite; with call
stacks and without, of several processes, and of an allocator that is not ours."""

import collections
import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, run

PROTO = Path('/usr/share/gocode/src/github.com/google/pprof/proto/profile.proto')
SQL = 'create table t(a); insert into t values(zeroblob(100000)); select length(a) from t;'
SCRIPT = f'sqlite3 :memory: "{SQL}"; sqlite3 :memory: "{SQL}"; exit 0'
LINE = re.compile(r'[^;\n]+( \[\d+\.\d+\])(;[^;\n]+)+ ([1-9]\d*)')


def recording(heapledger, trace, *options):
    outcome = run([heapledger, 'record', '--kernel', 'off', *options, '-o', trace, '--',
                   '/bin/sh', '-c', SCRIPT])
    assert outcome.status == 0, outcome
    return trace, analyze(heapledger, trace)


@pytest.fixture(scope='module')
def stacked(heapledger, tmp_path_factory):
    """A shell and two sqlite3, with call stacks; and the analysis."""
    return recording(heapledger, tmp_path_factory.mktemp('export') / 'trace', '--stacks', 16)


@pytest.fixture(scope='module')
def plain(heapledger, tmp_path_factory):
    return recording(heapledger, tmp_path_factory.mktemp('export') / 'trace')


@pytest.fixture(scope='module')
def observed(heapledger, tmp_path_factory):
    return recording(heapledger, tmp_path_factory.mktemp('export') / 'trace', '--observe')


def export(heapledger, trace, form, *options):
    return run([heapledger, 'export', '--format', form, *options, trace])


def collapsed(heapledger, trace, value):
    """{stack: value}, each line as the format has it."""
    outcome = export(heapledger, trace, 'collapsed', '--value', value)
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    lines = outcome.stdout.decode().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines[:3]
    found = dict(line.rsplit(' ', 1) for line in lines)
    assert len(found) == len(lines), 'a stack is there twice'
    return {stack: int(number) for stack, number in found.items()}


def allocated(analysis):
    return sum(call['bytes'] for name, call in analysis['events']['by_call'].items()
               if 'free' not in name and name not in ('malloc_trim', 'mallopt'))


def peak(process):
    """The heap when most was mapped."""
    (moment,) = [m for m in process['moments'] if m['moment'] == 'mapped_peak']
    return moment


def totals(analysis):
    """What each value of an export sums up to."""
    peaks = [peak(process) for process in analysis['processes'] if process['moments']]
    return {
        'allocated': allocated(analysis),
        'peak': sum(moment['ledger']['requested_bytes'] for moment in peaks),
        'end': sum(process['end']['requested_bytes'] for process in analysis['processes']),
        'syscalls': analysis['events']['syscalls'],
    }


@pytest.mark.parametrize('kind', ['stacked', 'plain'])
def test_collapsed_stacks_sum_up_to_the_analysis(heapledger, request, kind):
    trace, analysis = request.getfixturevalue(kind)
    for value, total in totals(analysis).items():
        assert sum(collapsed(heapledger, trace, value).values()) == total > 0, value


def test_stacks_have_names_from_the_outermost_in(heapledger, stacked):
    trace, _ = stacked
    stacks = [stack.split(';') for stack in collapsed(heapledger, trace, 'allocated')]
    assert {stack[0].split(' ')[0] for stack in stacks} >= {'sh', 'sqlite3'}
    assert len({stack[0] for stack in stacks if stack[0].startswith('sqlite3')}) == 2
    deep = [stack for stack in stacks if len(stack) > 4 and stack[1] != '[cut]']
    assert deep and any('main' in frame for stack in deep for frame in stack[1:4]), stacks[:5]


FLAMEGRAPH = Path('/usr/share/perl5/Devel/NYTProf/flamegraph.pl')


@pytest.mark.skipif(not FLAMEGRAPH.exists(), reason='libdevel-nytprof-perl, which has flamegraph.pl, is not installed')
@pytest.mark.parametrize('kind', ['stacked', 'plain'])
def test_flamegraph_draws_each_frame_with_its_sum(heapledger, request, kind):
    """The tool that the format comes from: its picture has a frame for each beginning of a stack, and the
    one below all has the sum."""
    trace, analysis = request.getfixturevalue(kind)
    for value, total in totals(analysis).items():
        said = export(heapledger, trace, 'collapsed', '--value', value).stdout
        outcome = run([FLAMEGRAPH, '--minwidth', 0, '--countname', 'parts'], input=said)
        assert (outcome.status, outcome.stderr) == (0, b''), outcome
        expected = collections.Counter({('all',): total})
        for stack, number in collapsed(heapledger, trace, value).items():
            frames = ('all', *stack.split(';'))
            for depth in range(2, len(frames) + 1):
                expected[frames[:depth]] += number
        drawn = [re.fullmatch(r'(.*) \(([\d,]+) parts, [\d.]+%\)', title.text, re.DOTALL).groups()
                 for title in ElementTree.fromstring(outcome.stdout).iter('{http://www.w3.org/2000/svg}title')]
        assert sorted((name, int(number.replace(',', ''))) for name, number in drawn) == sorted(
            (frames[-1], number) for frames, number in expected.items())


# ---- pprof --------------------------------------------------------------------------------------


def decoded(data):
    """What protoc makes of a profile: (field, value or fields) in order."""
    outcome = run(['protoc', f'--proto_path={PROTO.parent}', '--decode=perftools.profiles.Profile',
                   PROTO.name], input=gzip.decompress(data))
    assert outcome.status == 0, outcome.stderr
    stack = [[]]
    for line in outcome.stdout.decode().splitlines():
        line = line.strip()
        if line.endswith('{'):
            stack.append([])
            stack[-2].append((line[:-2], stack[-1]))
        elif line == '}':
            stack.pop()
        else:
            name, text = line.split(': ', 1)
            stack[-1].append((name, json.loads(text) if text[0] == '"' else
                              text == 'true' if text in ('true', 'false') else int(text)))
    return stack[0]


def every(fields, name):
    return [value for field, value in fields if field == name]


@pytest.mark.skipif(not PROTO.exists() or not shutil.which('protoc', path=CLEAN_ENVIRONMENT['PATH']),
                    reason='protobuf-compiler or golang-github-google-pprof-dev is not installed')
@pytest.mark.parametrize('kind', ['stacked', 'plain', 'observed'])
def test_pprof_is_a_profile_of_the_official_schema(heapledger, request, kind):
    trace, analysis = request.getfixturevalue(kind)
    outcome = export(heapledger, trace, 'pprof')
    assert outcome.status == 0, outcome.stderr
    profile = decoded(outcome.stdout)
    strings = every(profile, 'string_table')
    assert strings[0] == '' and len(set(strings)) == len(strings)
    types = [strings[dict(kind)['type']] for kind in every(profile, 'sample_type')]
    samples = every(profile, 'sample')
    sums = [sum(column) for column in zip(*(every(sample, 'value') for sample in samples))]
    by_type = dict(zip(types, sums, strict=True))
    assert by_type['alloc_space'] == allocated(analysis) > 0
    if kind == 'observed':
        assert types == ['alloc_objects', 'alloc_space'] and b'left out: peak' in outcome.stderr
    else:
        names = {'peak_space': 'peak', 'inuse_space': 'end', 'syscalls': 'syscalls'}
        assert {key: by_type[key] for key in names} == {
            key: totals(analysis)[value] for key, value in names.items()}
    places = {dict(place)['id']: place for place in every(profile, 'location')}
    functions = {dict(f)['id']: strings[dict(f)['name']] for f in every(profile, 'function')}
    mappings = {dict(mapping)['id']: dict(mapping) for mapping in every(profile, 'mapping')}
    used = [number for sample in samples for number in every(sample, 'location_id')]
    assert set(used) == set(places)
    for place in places.values():
        fields = dict(place)
        if 'mapping_id' in fields:
            mapping = mappings[fields['mapping_id']]
            assert mapping['memory_start'] <= fields['address'] - 1 < mapping['memory_limit']
        assert all(functions[dict(line)['function_id']] for line in every(place, 'line'))
    labels = [{strings[dict(label)['key']]: dict(label).get('num') for label in every(sample, 'label')}
              for sample in samples]
    assert all({'program', 'process'} <= set(label) for label in labels)
    numbers = {label['stack'] for label in labels if 'stack' in label}
    if kind == 'stacked':
        assert any('main' in name for name in functions.values()) and mappings
        sites = [site for moment in analysis['moments'] for site in moment['sites']
                 if not site['kept'] and moment['moment'] in ('mapped_peak', 'end')]
        assert sites and {site['stack'] for site in sites} <= numbers
    else:
        assert not numbers


GO = shutil.which('go', path=CLEAN_ENVIRONMENT['PATH'])


def go_pprof(trace, tmp_path, *arguments):
    outcome = run([GO, 'tool', 'pprof', '-symbolize=none', *arguments, trace], cwd=tmp_path,
                  env={'HOME': str(tmp_path)})
    assert outcome.status == 0, outcome
    return outcome.stdout.decode()


@pytest.mark.skipif(not GO, reason='golang-go, which has pprof, is not installed')
@pytest.mark.parametrize('kind', ['stacked', 'plain', 'observed'])
def test_pprof_itself_opens_it_and_comes_to_the_same_sums(heapledger, request, kind, tmp_path):
    trace, analysis = request.getfixturevalue(kind)
    profile = tmp_path / 'p.pb.gz'
    assert export(heapledger, trace, 'pprof', '-o', profile).status == 0
    head, _, rest = go_pprof(profile, tmp_path, '-raw').partition('Samples:\n')
    assert rest, head
    types, *lines = rest.partition('Locations\n')[0].splitlines()
    types = [word.removesuffix('[dflt]').split('/')[0] for word in types.split()]
    samples = [[int(word) for word in line.partition(':')[0].split()] for line in lines
               if re.match(r' *-?\d+( |:)', line)]
    sums = dict(zip(types, map(sum, zip(*samples)), strict=True))
    expected = {'alloc_space': allocated(analysis)}
    if kind != 'observed':
        names = {'peak_space': 'peak', 'inuse_space': 'end', 'syscalls': 'syscalls'}
        expected |= {key: totals(analysis)[value] for key, value in names.items()}
        expected['syscall_time'] = sums['syscall_time']
        all_sites = run([heapledger, 'analyze', '--json', '-', '--top', 1_000_000, trace]).stdout
        pinned = sum(site['pinned_bytes'] for process in json.loads(all_sites)['processes']
                     if process['moments'] for site in peak(process)['sites'] if not site['kept'])
        assert abs(sums['pinned_space'] - pinned) <= len(samples) / 2 and pinned > 0
        expected['pinned_space'] = sums['pinned_space']
    assert {key: sums[key] for key in expected} == expected
    for value, total in expected.items():
        unit = {'syscalls': [], 'syscall_time': ['-unit=ns']}.get(value, ['-unit=B'])
        said = go_pprof(profile, tmp_path, '-top', '-flat', *unit, '-nodefraction=0',
                        '-nodecount=100000', f'-sample_index={value}')
        assert f'Type: {value}\n' in said
        assert re.search(rf'nodes accounting for {total}[a-zA-Z]*, 100% of {total}[a-zA-Z]* ', said), said[:400]
        flat = [int(re.match(r' *(\d+)', line).group(1)) for line in said.partition('cum%\n')[2].splitlines()]
        assert sum(flat) == total > 0
        if kind == 'stacked' and value == 'alloc_space':
            assert 'sqlite3' in said and 'main' in said


@pytest.mark.parametrize('kind', ['stacked', 'plain', 'observed'])
def test_analyze_writes_the_same_profile_and_all_else_as_without(heapledger, request, kind, tmp_path):
    trace, _ = request.getfixturevalue(kind)
    outcome = run([heapledger, 'analyze', '--profile', tmp_path / 'p', '--json', tmp_path / 'with', trace])
    assert outcome.status == 0, outcome.stderr
    assert (tmp_path / 'p').read_bytes() == export(heapledger, trace, 'pprof').stdout
    assert run([heapledger, 'analyze', '--json', tmp_path / 'without', trace]).status == 0
    assert (tmp_path / 'with').read_bytes() == (tmp_path / 'without').read_bytes()


@pytest.mark.parametrize('arguments, message', [
    (['--profile', '-'], b'--profile needs a file'),
    (['--profile', 'p', '--from', '1s'], b'--profile shows the whole recording'),
    (['--profile', 'none/p'], b'cannot write none/p: No such file or directory'),
])
def test_a_profile_of_analyze_that_cannot_be_is_one_line(heapledger, plain, arguments, message, tmp_path):
    outcome = run([heapledger, 'analyze', *arguments, plain[0]], cwd=tmp_path)
    assert outcome.status == 2 and message in outcome.stderr and outcome.stderr.count(b'\n') == 1
    assert not list(tmp_path.iterdir())


# ---- the time line ------------------------------------------------------------------------------


def test_trace_events_are_the_system_calls_and_counters(heapledger, stacked):
    trace, analysis = stacked
    outcome = export(heapledger, trace, 'trace-event')
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    events = json.loads(outcome.stdout)['traceEvents']
    for event in events:
        assert event['ph'] in 'XCMi' and isinstance(event['pid'], int) and event['name'], event
        assert event['ph'] == 'M' or event['ts'] >= 0, event
    slices = [event for event in events if event['ph'] == 'X']
    assert len(slices) == analysis['events']['syscalls']
    assert all(event['dur'] >= 0 and event['args']['reason'] and event['tid'] for event in slices)
    assert all(event['name'].split(' ')[1] == event['args']['reason'] for event in slices)
    moved = [event['args']['moved_bytes'] for event in slices if event['name'].startswith('brk ')]
    assert moved and moved[0] == 0 and max(moved) > 0 and all(abs(by) < 1 << 30 for by in moved)
    counters = [event for event in events if event['ph'] == 'C']
    assert {event['name'] for event in counters} >= {'heap bytes', 'live blocks', 'returned bytes'}
    last = {}
    for event in counters:
        if event['name'] == 'heap bytes':
            last[event['pid']] = event['args']
    assert last[analysis['processes'][-1]['pid']]['requested'] == \
        analysis['processes'][-1]['end']['requested_bytes']


NAME = {'type': 'string', 'minLength': 1}
NUMBER = {'type': 'integer', 'minimum': 0}
TIME = {'type': 'number', 'minimum': 0}  # microseconds


def event_of(phase, optional=(), **fields):
    """A JSON Schema of one kind of event, which has these fields and no others."""
    fields = {'ph': {'const': phase}, 'pid': NUMBER, 'name': NAME, **fields}
    return {'type': 'object', 'properties': fields, 'additionalProperties': False,
            'required': [name for name in fields if name not in optional]}


def arguments(optional=(), **fields):
    return {'type': 'object', 'properties': fields, 'additionalProperties': False,
            'required': [name for name in fields if name not in optional]}


# What the Trace Event Format says of the kinds of events that are used here: complete events, counters,
# the two ends of a nestable asynchronous one, and metadata.
TRACE_EVENTS = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    **arguments(displayTimeUnit={'enum': ['ms', 'ns']},
                otherData={'type': 'object', 'additionalProperties': NAME},
                traceEvents={'type': 'array', 'items': {'oneOf': [
                    event_of('X', cat=NAME, tid=NUMBER, ts=TIME, dur=TIME, args=arguments(
                        ('call', 'call_bytes', 'errno', 'moved_bytes', 'length_bytes'), reason=NAME,
                        reason_text=NAME, call=NAME, call_bytes=NUMBER, errno=NUMBER,
                        moved_bytes={'type': 'integer'}, length_bytes=NUMBER)),
                    event_of('C', cat=NAME, ts=TIME, args={'type': 'object', 'minProperties': 1,
                                                 'additionalProperties': NUMBER}),
                    event_of('b', cat=NAME, id=NAME, tid=NUMBER, ts=TIME),
                    event_of('e', cat=NAME, id=NAME, tid=NUMBER, ts=TIME),
                    event_of('i', cat=NAME, s={'const': 'p'}, tid=NUMBER, ts=TIME,
                             args=arguments(stream=NAME)),
                    event_of('M', name={'const': 'process_name'}, args=arguments(name=NAME)),
                    event_of('M', name={'const': 'process_sort_index'},
                             args=arguments(sort_index=NUMBER)),
                    event_of('M', name={'const': 'thread_name'}, tid=NUMBER,
                             args=arguments(name=NAME))]}})}


def test_trace_events_are_what_the_format_allows(build, heapledger, stacked, tmp_path):
    """By a strict schema; and slices of a thread do not overlap, nor do phases, as Perfetto wants it."""
    jsonschema.Draft202012Validator.check_schema(TRACE_EVENTS)
    phases = tmp_path / 'trace'
    assert run([heapledger, 'record', '--kernel', 'off', '-o', phases, '--',
                build / 'tests' / 'victims' / 'victim_phases_pie', 'names', 10, 'a', 'b']).status == 0
    kinds = set()
    for trace in stacked[0], phases:
        said = json.loads(export(heapledger, trace, 'trace-event').stdout)
        jsonschema.Draft202012Validator(TRACE_EVENTS).validate(said)
        kinds |= {event['ph'] for event in said['traceEvents']}
        ends, open_phase = {}, {}
        for event in sorted((e for e in said['traceEvents'] if e['ph'] == 'X'), key=lambda e: e['ts']):
            thread = event['pid'], event['tid']
            assert event['ts'] >= ends.get(thread, 0) - 0.001, event
            ends[thread] = event['ts'] + event['dur']
        for event in said['traceEvents']:
            if event['ph'] in 'be':
                key = event['cat'], event['id']
                assert (open_phase.pop(key, None) == event['name']) == (event['ph'] == 'e'), event
                open_phase |= {key: event['name']} if event['ph'] == 'b' else {}
        assert not open_phase
    assert kinds == set('XCMbei')


def test_phases_begin_and_end(build, heapledger, tmp_path):
    trace = tmp_path / 'trace'
    outcome = run([heapledger, 'record', '--kernel', 'off', '-o', trace, '--',
                   build / 'tests' / 'victims' / 'victim_phases_pie', 'names', 10, 'load', 'run "it"'])
    assert outcome.status == 0, outcome
    analysis = analyze(heapledger, trace)
    events = json.loads(export(heapledger, trace, 'trace-event').stdout)['traceEvents']
    begun = [event for event in events if event['ph'] == 'b']
    ended = [event for event in events if event['ph'] == 'e']
    named = [row['name'] for process in analysis['processes'] for row in process['phases'] if row['name']]
    assert [event['name'] for event in begun] == [event['name'] for event in ended] == named != []
    assert all(a['ts'] <= b['ts'] and a['id'] == b['id'] for a, b in zip(begun, ended))


def test_csv_is_that_of_analyze(heapledger, plain, tmp_path):
    trace, _ = plain
    assert export(heapledger, trace, 'csv', '-o', tmp_path / 'here').status == 0
    assert run([heapledger, 'analyze', '--csv', tmp_path / 'there', trace]).status == 0
    files = sorted(path.name for path in (tmp_path / 'there').iterdir())
    assert files == sorted(path.name for path in (tmp_path / 'here').iterdir())
    for name in files:
        assert (tmp_path / 'here' / name).read_bytes() == (tmp_path / 'there' / name).read_bytes()
    with open(tmp_path / 'here' / 'timeline.csv') as file:
        assert len(list(csv.DictReader(file))) > 1


def test_sqlite_imports_each_table_and_sums_it_alike(heapledger, stacked, tmp_path):
    """`.import --csv` makes a table of the first line and takes each line that has as many fields; what does
    not fit it says. All columns but names are numbers or empty, by sqlite's reading as by Python's."""
    trace, analysis = stacked
    assert export(heapledger, trace, 'csv', '-o', tmp_path / 'csv').status == 0
    tables = {path.stem: path for path in (tmp_path / 'csv').iterdir()}
    for name, path in tables.items():
        with open(path) as file:
            columns = next(csv.reader(file))
            rows = list(csv.reader(file))
        sums = ', '.join(f'sum("{column}" + 0), count(nullif("{column}", \'\'))' for column in columns)
        outcome = run(['sqlite3', ':memory:', '-cmd', f'.import --csv {path} t', '-csv',
                       f'select count(*), {sums} from t'])
        assert (outcome.status, outcome.stderr) == (0, b''), outcome
        count, *found = next(csv.reader([outcome.stdout.decode()]))
        assert int(count) == len(rows) and (rows or name == 'return_latency'), name
        for at, column in enumerate(columns):
            values = [row[at] for row in rows if row[at]]
            assert int(found[2 * at + 1]) == len(values)
            if column not in ('stream', 'syscall', 'reason', 'call', 'clock'):
                assert float(found[2 * at] or 0) == pytest.approx(sum(map(float, values)), rel=1e-9), column
    said = run(['sqlite3', ':memory:', '-cmd', f'.import --csv {tables["syscalls"]} t',
                'select sum(count) from t'])
    assert int(said.stdout) == analysis['syscalls']['total']


# ---- what cannot be done ------------------------------------------------------------------------


def test_what_is_not_known_is_refused(heapledger, observed):
    trace, _ = observed
    outcome = export(heapledger, trace, 'collapsed')
    assert (outcome.status, outcome.stdout) == (4, b'')
    assert b'--value peak is not known' in outcome.stderr
    assert sum(collapsed(heapledger, trace, 'allocated').values()) > 0
    outcome = export(heapledger, trace, 'trace-event')
    assert outcome.status == 0 and b'left out' in outcome.stderr
    events = json.loads(outcome.stdout)['traceEvents']
    assert not [event for event in events if event['ph'] == 'X']
    assert {tuple(event['args']) for event in events if event['name'] == 'heap bytes'} == {('requested',)}


@pytest.mark.parametrize('arguments, message', [
    ([], '--format is needed'),
    (['--format', 'svg'], '--format svg: collapsed, pprof, trace-event or csv is needed'),
    (['--format', 'collapsed', '--value', 'x'], '--value x: there is no such value'),
    (['--format', 'pprof', '--value', 'peak'], '--value is for --format collapsed'),
    (['--format', 'csv'], '--format csv needs a folder'),
])
def test_wrong_usage_is_told(heapledger, plain, arguments, message):
    outcome = run([heapledger, 'export', *arguments, plain[0]])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert message in outcome.stderr.decode() and outcome.stderr.count(b'\n') == 1


def test_nothing_is_overwritten(heapledger, plain, tmp_path):
    output = tmp_path / 'stacks'
    output.write_text('mine')
    outcome = export(heapledger, plain[0], 'collapsed', '-o', output)
    assert outcome.status == 2 and b'--force replaces it' in outcome.stderr
    assert output.read_text() == 'mine'
    assert export(heapledger, plain[0], 'collapsed', '--force', '-o', output).status == 0
    assert output.read_text() != 'mine'
    assert [path.name for path in tmp_path.iterdir()] == ['stacks']


def test_no_trace_is_told(heapledger, tmp_path):
    outcome = export(heapledger, tmp_path / 'none', 'pprof', '-o', tmp_path / 'out')
    assert outcome.status == 3 and not (tmp_path / 'out').exists()
