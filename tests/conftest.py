# SPDX-License-Identifier: MIT
"""What all tests of commands and programs share: where the build is, how to run a program as it is,
under the library and under `heapledger record`, and how to compare. Meson starts each test file on
its own with HEAPLEDGER_BUILD set; by hand: HEAPLEDGER_BUILD=build pytest tests/commands/test_x.py
"""

import concurrent.futures
import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema
import pytest

SOURCE = Path(__file__).resolve().parent.parent

# A program under test sees this and nothing of the machine: no other interpreter first in PATH, no
# locale, no options by variable, and none of our own.
CLEAN_ENVIRONMENT = {
    'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'LC_ALL': 'C.UTF-8',
    'TZ': 'UTC',
    'HOME': '/nonexistent',
}


# A background job of a shell without job control ignores these, one of nohup the last, and so would
# every program here.
for number in signal.SIGINT, signal.SIGQUIT, signal.SIGHUP:
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Outcome:
    """How a program ended, and what it left."""

    status: int
    stdout: bytes
    stderr: bytes
    files: dict = field(default_factory=dict)
    result: object = None


@dataclass
class Comparison:
    """The same program three times: on its own, under the library, recorded."""

    plain: Outcome
    library: Outcome
    recorded: Outcome
    trace: Path
    analysis: dict


@functools.cache
def schema():
    """Validates what `analyze --json` writes against docs/analysis.schema.json."""
    text = (SOURCE / 'docs' / 'analysis.schema.json').read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def assert_valid(analysis):
    """Every field is one of the schema's, of its type and in its range, and none is missing. Of many
    processes a few stand for all, since the same code wrote them and the validator is slow."""
    processes = analysis['processes']
    analysis = {**analysis, 'processes': processes[:10] + processes[10:][-10:]}
    error = jsonschema.exceptions.best_match(schema().iter_errors(analysis))
    assert not error, f'{error.json_path}: {error.message[:500]}'


def written_json(words, stdout, cwd):
    """What a command that was run wrote as the JSON of an analysis, or None."""
    if 'analyze' not in words[1:2] or '--json' not in words[:-1]:
        return None
    output = words[words.index('--json') + 1]
    if output == '-':
        return stdout
    path = Path(cwd or '.', output)
    return path.read_bytes() if path.is_file() else None


def wait_for(condition, seconds=60):
    """What the condition gives as soon as it holds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.01)
    return found


def run(argv, *, cwd=None, env=None, input=None, timeout=240):
    """Runs argv in the clean environment (plus env), without a terminal. When it takes too long,
    ends its whole process group and fails. The JSON of an analysis must be as the schema has it."""
    process = subprocess.Popen(
        [str(word) for word in argv], cwd=cwd, env={**CLEAN_ENVIRONMENT, **(env or {})},
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        stdout, stderr = process.communicate(input, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise AssertionError(f'{argv} did not end in {timeout} s: {stdout!r} {stderr!r}') from None
    written = written_json([str(word) for word in argv], stdout, cwd)
    if process.returncode == 0 and written:
        assert_valid(json.loads(written))
    return Outcome(process.returncode, stdout, stderr)


@pytest.fixture(scope='session')
def build():
    """The build folder."""
    folder = os.environ.get('HEAPLEDGER_BUILD')
    assert folder, 'set HEAPLEDGER_BUILD to the build folder'
    return Path(folder).resolve()


def existing(path):
    assert path.exists(), f'{path} was not built'
    return path


@pytest.fixture(scope='session')
def heapledger(build):
    """The command, uninstalled."""
    return existing(build / 'analyzer' / 'heapledger')


@pytest.fixture(scope='session')
def library(build):
    """The library that is preloaded."""
    return existing(build / 'interposer' / 'libheapledger.so')


@pytest.fixture(scope='session')
def victims(build):
    """The folder of the programs that are made to be recorded."""
    return build / 'tests' / 'victims'


@pytest.fixture
def trace(tmp_path):
    """Where a recording goes; nothing is there yet."""
    return tmp_path / 'trace'


def session(trace):
    """What `record` says of a recording."""
    return json.loads((trace / 'session.json').read_text())


def record_program(heapledger, build, trace, words, **more):
    """Options, `--` and a command, of which `victim_...` is one of ours; returns the trace."""
    words = [build / 'tests' / 'victims' / word if word.startswith('victim_') else word for word in words]
    outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '-o', trace, *words], **more)
    assert outcome.status == 0, outcome
    return trace


def analyze(heapledger, trace):
    """What `analyze --json` says of a trace."""
    output = trace.with_name(trace.name + '.json')
    outcome = run([heapledger, 'analyze', trace, '--json', output])
    assert outcome.status == 0, outcome
    return json.loads(output.read_text())


def ledger_adds_up(moment):
    """Every mapped byte of a moment is in one row; only what caches hold may not be known."""
    ledger = moment['ledger']
    rows = [ledger[name] for name in (
        'requested_bytes', 'slack_bytes', 'partial_bytes', 'top_bytes', 'between_bytes', 'metadata_bytes')]
    rows += [ledger['cached_bytes'] or 0, ledger['table_bytes'] or 0, *ledger['whole_pages'].values()]
    assert ledger['mapped_bytes'] == sum(rows), ledger


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.002)


def child_of(process):
    """The number of its first child, as soon as there is one."""
    children = f'/proc/{process.pid}/task/{process.pid}/children'
    until(lambda: open(children).read().split())
    return int(open(children).read().split()[0])


def redis_server(folder):
    """redis-server, or the same program under the name that redis-tools gives it."""
    program = shutil.which('redis-server', path=CLEAN_ENVIRONMENT['PATH'])
    if not program:
        program = folder / 'redis-server'
        program.symlink_to('/usr/bin/redis-check-rdb')
    version = run([program, '--version'])
    assert version.stdout.startswith(b'Redis server'), version
    return program


SOUND = set()  # traces that assert_sound has seen


def terminal_of(*words, columns=80, stdout=None, stderr=None, term='xterm'):
    """Runs words as a shell at a terminal runs a job; stdout and stderr are that terminal if they
    are not given. Returns the status and what the terminal got."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('4H', 25, columns, 0, 0))
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    process = subprocess.Popen(
        [str(word) for word in words], env={**CLEAN_ENVIRONMENT, 'TERM': term},
        stdin=slave, stdout=slave if stdout is None else stdout,
        stderr=slave if stderr is None else stderr, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    got = b''
    try:
        while more := os.read(master, 65536):
            got += more
    except OSError as error:
        assert error.errno == errno.EIO  # the last one has closed it
    os.close(master)
    return process.wait(30), got


def assert_sound(analysis, least_calls, trace=None):
    """There were events, and every one of them is in the trace and makes sense."""
    assert analysis['events']['calls'] >= least_calls, analysis['events']
    assert analysis['events']['lost'] == 0, analysis['events']
    incomplete = [process for process in analysis['processes'] if not process['complete']]
    assert analysis['complete'], incomplete[:3]
    wrong = {name: count for name, count in analysis['anomalies'].items() if count}
    assert not wrong, wrong
    if trace:
        SOUND.add(trace)


def sound(heapledger, trace):
    """The analysis of a recording in which nothing is missing and nothing contradicts itself."""
    analysis = analyze(heapledger, trace)
    assert not any(analysis['anomalies'].values()), analysis['anomalies']
    assert analysis['complete'] and analysis['events']['lost'] == 0, analysis['notes']
    described = session(trace)
    assert described['complete'] and described['unrecorded_processes'] == 0, described['notes']
    assert sum(s['events'] for s in described['streams']) == analysis['events']['total']
    return analysis


def recordings(folder):
    """The traces that `record` made somewhere below, not those that tests make by hand."""
    return [path.parent for path in folder.rglob('session.json')]


def assert_causal(heapledger, trace):
    """In the merged order of all threads no address is handed out again before its free, and none
    is freed that was not handed out. With events missing, nobody can tell. What assert_sound has
    said of a trace need not be found out again."""
    if trace in SOUND:
        return
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / 'analysis.json'
        outcome = run([heapledger, 'analyze', trace, '--json', output])
        if outcome.status != 0:
            return  # spoilt on purpose
        analysis = json.loads(output.read_text())
    wrong = {name: count for name, count in analysis['anomalies'].items() if count}
    assert not wrong or not analysis['complete'], (trace, wrong)


# Every recording that a test makes is checked: after the test, or, where it lies elsewhere, at the
# end. One that is not in order on purpose is marked so.
@pytest.fixture(autouse=True)
def causal_order(request, heapledger):
    checked = 'tmp_path' in request.fixturenames and not request.node.get_closest_marker('disorder')
    folder = request.getfixturevalue('tmp_path') if checked else None
    yield
    for trace in recordings(folder) if folder else []:
        assert_causal(heapledger, trace)


@pytest.fixture(autouse=True, scope='session')
def causal_order_of_shared_traces(request, heapledger, tmp_path_factory):
    yield
    own = {item.name[:30].translate({ord(c): '_' for c in '[]-./ '}) for item in request.session.items}
    for folder in tmp_path_factory.getbasetemp().iterdir():
        if folder.is_dir() and not any(folder.name.startswith(name) for name in own):
            for trace in recordings(folder):
                assert_causal(heapledger, trace)


def pytest_configure(config):
    config.addinivalue_line('markers', 'disorder: its recordings are not in order, on purpose')


class Preload:
    """Compares a program with itself: under the library and under `heapledger record`."""

    def __init__(self, heapledger, library, folder):
        self.heapledger, self.preloaded, self.folder = heapledger, library, folder

    def environment(self, env=None):
        """The environment that puts a program on the library's allocator, without recording."""
        return {**(env or {}), 'LD_PRELOAD': str(self.preloaded)}

    def record_command(self, argv, trace):
        return [self.heapledger, 'record', '-o', trace, '--', *argv]

    def compare(self, argv, *, prepare=None, files=(), result=None, env=None, input=None,
                normalise=None, least_calls=1, timeout=240, waits=False):
        """Runs argv three times, each in a new folder that prepare(folder) fills, and demands the
        same status, stdout, stderr, contents of the files it leaves and result(folder). normalise
        takes from the output what is never twice the same. The recording must be whole. The three
        run side by side if the program mostly waits."""
        trace = self.folder / 'trace'
        ways = {
            'plain': (argv, env),
            'library': (argv, self.environment(env)),
            'recorded': (self.record_command(argv, trace), env),
        }

        def outcome_of(way):
            command, variables = ways[way]
            cwd = self.folder / way
            cwd.mkdir()
            if prepare:
                prepare(cwd)
            outcome = run(command, cwd=cwd, env=variables, input=input, timeout=timeout)
            outcome.files = {name: (cwd / name).read_bytes() for name in files}
            outcome.result = result(cwd) if result else None
            if way == 'recorded':
                outcome.stderr = without_own_lines(outcome.stderr)
            if normalise:
                outcome.stdout = normalise(outcome.stdout)
                outcome.stderr = normalise(outcome.stderr)
            return outcome

        with concurrent.futures.ThreadPoolExecutor(len(ways) if waits else 1) as pool:
            outcomes = dict(zip(ways, pool.map(outcome_of, ways)))
        for way in 'library', 'recorded':
            assert_same(outcomes['plain'], outcomes[way], way)
        analysis = analyze(self.heapledger, trace)
        assert_sound(analysis, least_calls, trace)
        return Comparison(**outcomes, trace=trace, analysis=analysis)


def without_own_lines(stderr):
    """What `record` itself says on stderr, each line under its own name, is not the program's."""
    lines = stderr.splitlines(keepends=True)
    return b''.join(line for line in lines if not line.startswith(b'heapledger: '))


def assert_same(plain, other, way):
    assert other.status == plain.status, (way, other.status, other.stderr[-2000:])
    assert other.stdout == plain.stdout, way
    assert other.stderr == plain.stderr, way
    assert other.result == plain.result, way
    for name, content in plain.files.items():
        assert other.files[name] == content, f'{way}: {name} differs'


@pytest.fixture
def preload(heapledger, library, tmp_path):
    return Preload(heapledger, library, tmp_path)


# Every skip is visible with its reason, and the counts have a form that tests/summary.py reads.
# Where a skip is not acceptable, HEAPLEDGER_NO_SKIP says so: words, one of which is in the test's
# name when it must not be skipped.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    wanted = os.environ.get('HEAPLEDGER_NO_SKIP', '').split()
    if report.skipped and any(word in item.nodeid for word in wanted):
        report.outcome = 'failed'
        report.longrepr = f'{item.nodeid} must not be skipped here: {report.longrepr}'


def skip_reason(report):
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix('Skipped: ')
    return getattr(report, 'wasxfail', '') or str(report.longrepr)


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    skipped = stats.get('skipped', []) + stats.get('xfailed', [])
    for report in skipped:
        reason = ' '.join(skip_reason(report).split())
        terminalreporter.write_line(f'skipped: {report.nodeid}: {reason}')
    failed = len(stats.get('failed', [])) + len(stats.get('error', []))
    failed += len(stats.get('xpassed', []))
    terminalreporter.write_line(
        f'cases: {len(stats.get("passed", []))} passed, {failed} failed, {len(skipped)} skipped')
