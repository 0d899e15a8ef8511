# SPDX-License-Identifier: MIT
"""The trace-event JSON in the trace viewer that is chrome://tracing: it is read without a warning, and what
the viewer then holds, of tracks, counters, slices and marks, is what `analyze` says of the recording, to
the byte and the nanosecond. Debian's chromium is built without the viewer's page; the same viewer comes
with Go, for `go tool trace`."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from browser import MISSING, Browser, chromium
from conftest import analyze, run

VIEWER = next((path for place in ('cmd/trace', 'internal/trace/traceviewer')
               for path in Path('/usr/share').glob(f'go-*/src/{place}/static/trace_viewer_full.html')), None)
pytestmark = [pytest.mark.skipif(not chromium(), reason=MISSING),
              pytest.mark.skipif(not VIEWER, reason='golang-go, which has the viewer, is not installed')]

PAGE = '''<!DOCTYPE html><meta charset="utf-8"><title>trace viewer</title>
<script src="{folder}/webcomponents.min.js"></script>
<link rel="import" href="{folder}/trace_viewer_full.html">
<script>
const ready = new Promise(done => document.addEventListener('WebComponentsReady', done));
async function read(text) {{
	await ready;
	const options = new tr.importer.ImportOptions();
	options.shiftWorldToZero = false;
	const model = new tr.Model();
	await new tr.importer.Import(model, options).importTraces([text]);
	const values = Object.values;
	const slices = group => group.slices.map(s => [s.title, s.start, s.duration, s.args]);
	return {{
		warnings: model.importWarnings.map(w => w.type + ': ' + w.message),
		processes: model.getAllProcesses().map(p => ({{
			pid: p.pid, name: p.name, order: p.sortIndex,
			marks: p.instantEvents.map(e => [e.title, e.start, e.args.stream]),
			counters: values(p.counters).map(c => [c.name, c.series.map(s =>
				[s.name, s.samples.map(sample => [sample.timestamp, sample.value])])]),
			threads: values(p.threads).map(t => ({{
				tid: t.tid, name: t.name, slices: slices(t.sliceGroup),
				phases: slices(t.asyncSliceGroup)}})),
		}})),
	}};
}}
</script>'''
SQL = 'create table t(a); insert into t values(zeroblob(300000)); select length(a) from t;'


@pytest.fixture(scope='module')
def viewer(tmp_path_factory):
    folder = tmp_path_factory.mktemp('viewer')
    (folder / 'page.html').write_text(PAGE.format(folder=VIEWER.parent.as_uri()))
    with Browser(folder, '--allow-file-access-from-files') as started:
        started.open(folder / 'page.html', 1200, 800)
        yield started


# What is recorded: one thread; a shell, its child, and what it becomes by exec; threads with arenas of
# their own; phases.
PROGRAMS = {
    'one': lambda victims: ['sqlite3', ':memory:', SQL],
    'processes': lambda victims: ['/bin/sh', '-c', f'sqlite3 :memory: "{SQL}"; exec sqlite3 :memory: "{SQL}"'],
    'threads': lambda victims: ['/usr/bin/python3', '-c', '''
import threading
threads = [threading.Thread(target=lambda: [bytearray(50_000) for _ in range(20)]) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()'''],
    'phases': lambda victims: [victims / 'victim_phases_pie', 'names', 10, 'load', 'run "it"'],
}


@pytest.fixture(scope='module', params=PROGRAMS)
def shown(request, build, heapledger, viewer, tmp_path_factory):
    """What the viewer holds, what `analyze` says, and the folder."""
    folder = tmp_path_factory.mktemp('shown')
    program = PROGRAMS[request.param](build / 'tests' / 'victims')
    outcome = run([heapledger, 'record', '--kernel', 'off', '-o', folder / 'trace', '--', *program])
    assert outcome.status == 0, outcome
    analysis = analyze(heapledger, folder / 'trace')
    assert run([heapledger, 'analyze', '--csv', folder / 'csv', folder / 'trace']).status == 0
    outcome = run([heapledger, 'export', '--format', 'trace-event', folder / 'trace'])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    return viewer.value(f'read({json.dumps(outcome.stdout.decode())})'), analysis, folder


def ns(milliseconds):
    return round(milliseconds * 1_000_000)


def by_pid(analysis):
    """{pid: its processes, in the order of the recording}; there is more than one after an exec."""
    found = {}
    for process in analysis['processes']:
        found.setdefault(process['pid'], []).append(process)
    return found


def test_it_is_read_without_a_warning_and_processes_have_names(shown):
    model, analysis, _ = shown
    assert model['warnings'] == []
    pids = by_pid(analysis)
    tracks = sorted(model['processes'], key=lambda track: track['order'])
    last = {pid: images[-1] for pid, images in pids.items()}
    assert [track['pid'] for track in tracks] == sorted(last, key=lambda pid: last[pid]['serial'])
    for track in tracks:
        images = pids[track['pid']]
        names = [Path(image['command'][0]).name for image in images]
        assert track['name'] == names[-1]
        assert [(name, ns(at), stream) for name, at, stream in track['marks']] == [
            (name, image['start_ns'], image['stream']) for name, image in zip(names, images)]


def test_counters_are_the_tables_of_analyze(shown):
    model, analysis, folder = shown
    pid_of = {process['stream']: process['pid'] for process in analysis['processes']}
    expected = {}

    def expect(row, name, **series):
        for part, value in series.items():
            key = pid_of[row['stream']], name, part
            expected.setdefault(key, []).append([int(row['time_ns']), value])

    for file in 'timeline', 'samples':
        with open(folder / 'csv' / f'{file}.csv') as table:
            for row in csv.DictReader(table):
                if file == 'samples':
                    expect(row, 'resident bytes', resident=int(row['rss_bytes']))
                    continue
                number = {name: int(row[name + '_bytes']) for name in (
                    'requested', 'slack', 'free', 'metadata', 'returned')}
                expect(row, 'returned bytes', returned=number.pop('returned'))
                expect(row, 'live blocks', blocks=int(row['live_blocks']))
                expect(row, 'heap bytes', **number)
    found = {(process['pid'], counter, part): [[ns(at), value] for at, value in samples]
             for process in model['processes'] for counter, series in process['counters']
             for part, samples in series}
    assert found == expected and len(found) >= 6


def test_slices_are_the_system_calls_by_cause(shown):
    model, analysis, _ = shown
    pids = by_pid(analysis)
    for track in model['processes']:
        images = pids[track['pid']]
        count, time, moved = Counter(), Counter(), Counter()
        for thread in track['threads']:
            for name, start, duration, args in thread['slices']:
                assert images[0]['start_ns'] <= ns(start) <= images[-1]['end_ns']
                key = *name.split(' '), args['reason_text'], args.get('call')
                assert key[1] == args['reason'] and ('call' in args) == ('call_bytes' in args)
                count[key] += 1
                time[key] += ns(duration)
                moved[key] += abs(args.get('moved_bytes', args.get('length_bytes', 0)))
            said = 'main thread' if thread['tid'] == track['pid'] else f'thread {thread["tid"]}'
            assert thread['name'] == (f'system calls, {said}' if thread['slices'] else None)
        causes = Counter(), Counter(), Counter()
        for cause in (cause for image in images for cause in image['syscalls']['by_cause']):
            key = tuple(cause[name] for name in ('syscall', 'reason', 'reason_text', 'call'))
            for sums, name in zip(causes, ('count', 'time_ns', 'bytes')):
                sums[key] += cause[name]
        assert (count, moved) == (causes[0], causes[2]) and count
        assert set(time) == set(causes[1])
        for key, sum_ns in causes[1].items():  # each duration is rounded for itself
            assert abs(time[key] - sum_ns) <= count[key], key
    total = sum(len(thread['slices']) for track in model['processes'] for thread in track['threads'])
    assert total == analysis['syscalls']['total'] > 0


def test_phases_are_slices_of_their_process(shown):
    model, analysis, _ = shown
    for track in model['processes']:
        found = [(name, ns(start), ns(start + duration)) for thread in track['threads']
                 for name, start, duration, _ in thread['phases']]
        assert found == [(phase['name'], phase['start_ns'], phase['end_ns'])
                         for image in by_pid(analysis)[track['pid']] for phase in image['phases']
                         if phase['name']]


def test_the_viewer_would_warn(viewer):
    """Of an end without a beginning."""
    broken = json.dumps({'traceEvents': [{'ph': 'E', 'pid': 1, 'tid': 1, 'ts': 1}]})
    assert viewer.value(f'read({json.dumps(broken)})')['warnings'] != []
