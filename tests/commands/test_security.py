# SPDX-License-Identifier: MIT
"""Root is given up as soon as it is not needed, and by sudo the program and its trace are the
caller's; nothing that somebody else laid in our way is followed; names of others reach terminal and
page only escaped. sudo is played by root with the variables that it sets."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import unicodedata
from pathlib import Path

import pytest

from conftest import CLEAN_ENVIRONMENT, run, wait_for
from probe_fixture import skip_without_probe

CALLER, OTHER_GROUP, STRANGER = 54321, 54322, 65534
PASSWD = f'root:x:0:0::/root:/bin/sh\ncaller:x:{CALLER}:{CALLER}::/home/caller:/bin/dash\n'
GROUP = f'root:x:0:\ncaller:x:{CALLER}:\nothers:x:{OTHER_GROUP}:caller\n'
DAC_OVERRIDE, KILL, PTRACE = 1 << 1, 1 << 5, 1 << 19

# A program that tells who it is, what it may do, and the same of its parent.
SHOW = '''import json, os, glob
def status(pid):
    lines = (line.split(':', 1) for line in open(f'/proc/{pid}/status'))
    return {name: text.split() for name, text in lines}
shared = os.stat(os.environ['HEAPLEDGER_SESSION'])
print(json.dumps({'own': status('self'), 'recorder': status(os.getppid()),
                  'recorder_owner': os.stat(f'/proc/{os.getppid()}/fd').st_uid,
                  'shared': [shared.st_uid, shared.st_mode & 0o7777],
                  'environment': dict(os.environ)}))'''
PROGRAM = ['/usr/bin/python3', '-I', '-S', '-c', SHOW]


@pytest.fixture(autouse=True)
def needs_root():
    if os.geteuid() != 0:
        pytest.skip('needs root to be somebody else')


@pytest.fixture(scope='module')
def place(build):
    """The command and its libraries where every user can reach them."""
    folder = Path(tempfile.mkdtemp(prefix='heapledger-test-'))
    folder.chmod(0o755)
    for name in 'analyzer/heapledger', 'interposer/libheapledger.so', 'interposer/libheapledger-observe.so':
        (folder / name).parent.mkdir(mode=0o755, exist_ok=True)
        shutil.copy(build / name, folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def command(place):
    return place / 'analyzer' / 'heapledger'


@pytest.fixture
def home(place):
    """A folder of the caller's."""
    folder = Path(tempfile.mkdtemp(dir=place))
    os.chown(folder, CALLER, CALLER)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def users(tmp_path):
    """Words before a command, by which it finds the caller in passwd."""
    (tmp_path / 'passwd').write_text(PASSWD)
    (tmp_path / 'group').write_text(GROUP)
    words = ['unshare', '-m', 'sh', '-c', 'mount --bind "$1/passwd" /etc/passwd && '
             'mount --bind "$1/group" /etc/group && shift && exec "$@"', 'sh', tmp_path]
    if run([*words, 'true']).status != 0:
        pytest.skip('needs the right to mount')
    return words


def sets(status):
    return {name: int(status[name][0], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')}


NOTHING = {'CapInh': 0, 'CapPrm': 0, 'CapEff': 0, 'CapAmb': 0}


def is_private(trace, uid):
    """Whether all of the trace is this user's, and closed to others."""
    files = [path.stat() for path in trace.iterdir()]
    return len(files) > 1 and trace.stat().st_uid == uid and trace.stat().st_mode & 0o7777 == 0o700 and {
        (file.st_uid, file.st_mode & 0o7777) for file in files} == {(uid, 0o600)}


# ---- sudo

SUDO = {'SUDO_UID': CALLER, 'SUDO_GID': CALLER, 'SUDO_USER': 'caller', 'SUDO_COMMAND': 'heapledger'}


@pytest.mark.parametrize('kernel, variables', [
    ('require', SUDO), ('off', SUDO), ('off', {'DOAS_USER': 'caller'}), ('off', {'PKEXEC_UID': CALLER}),
], ids=['sudo-kernel', 'sudo', 'doas', 'pkexec'])
def test_the_program_and_the_trace_are_the_callers(build, command, home, users, kernel, variables):
    if kernel == 'require':
        skip_without_probe(build)
    variables = {name: str(value) for name, value in variables.items()}
    outcome = run([*users, command, 'record', '--kernel', kernel, '-o', home / 'trace', '--',
                   *PROGRAM], cwd=home, env={**variables, 'USER': 'root', 'MAIL': '/var/mail/root'})
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    told = json.loads(outcome.stdout)
    for who in 'own', 'recorder':
        assert told[who]['Uid'] == told[who]['Gid'] == [str(CALLER)] * 4, told[who]
        assert set(told[who]['Groups']) == {str(CALLER), str(OTHER_GROUP)}
        assert sets(told[who]) == NOTHING
    assert told['own']['NoNewPrivs'] == ['0']
    environment = told['environment']
    assert [environment.get(name) for name in ('HOME', 'USER', 'LOGNAME', 'SHELL', 'MAIL')] == [
        '/home/caller', 'caller', 'caller', '/bin/dash', None]
    assert not variables.keys() & environment.keys()
    assert told['shared'] == [CALLER, 0o600]
    assert is_private(home / 'trace', CALLER)
    state = json.loads((home / 'trace' / 'session.json').read_text())['kernel']['state']
    assert state == ('recorded' if kernel == 'require' else 'off')


@pytest.mark.parametrize('owner', [CALLER, STRANGER, 0], ids=['own', 'of-a-stranger', 'of-root'])
def test_attached_by_sudo_the_trace_is_the_callers(build, command, home, owner):
    """Also of a process that is none of the caller's, which is what root was asked for."""
    skip_without_probe(build)
    program = home / 'victim'
    shutil.copy(build / 'tests' / 'victims' / 'victim_attached', program)
    trace, said = home / 'trace', subprocess.PIPE
    victim = subprocess.Popen(['setpriv', f'--reuid={owner}', f'--regid={owner}', '--clear-groups', program],
                              stdin=said, stdout=said)
    assert victim.stdout.readline()
    recorder = subprocess.Popen(
        [command, 'attach', '-o', trace, '--malloc', '--kernel', 'require', str(victim.pid)],
        env={**CLEAN_ENVIRONMENT, 'SUDO_UID': str(CALLER), 'SUDO_GID': str(OTHER_GROUP)}, stderr=said)
    try:
        wait_for(lambda: (trace / 'session.json').exists() or recorder.poll() is not None)
        lines = (line.split(':', 1) for line in open(f'/proc/{recorder.pid}/status'))
        status = {name: text.split() for name, text in lines}
        for order in b'maps 25\n', b'calls 1 25\n':
            victim.stdin.write(order)
            victim.stdin.flush()
            assert victim.stdout.readline() == b'done\n'
    finally:
        recorder.send_signal(signal.SIGINT)
        complaint = recorder.communicate(timeout=60)[1]
        victim.stdin.close()
        victim.wait(60)
        victim.stdout.close()
    assert (recorder.returncode, complaint) == (0, b'')
    assert status['Uid'] == [str(CALLER)] * 4 and status['Gid'] == [str(OTHER_GROUP)] * 4
    assert sets(status) == {**NOTHING, 'CapPrm': PTRACE, 'CapEff': PTRACE}
    assert is_private(trace, CALLER)
    analysis = json.loads(run([command, 'analyze', '--json', '-', trace]).stdout)
    assert analysis['syscalls']['munmap'] >= 25 and analysis['events']['calls'] >= 25


def test_attach_does_not_write_as_root(command, home, place):
    """Neither where the caller could not, nor for a process that is not there."""
    (place / 'closed').mkdir(mode=0o755, exist_ok=True)
    environment = {'SUDO_UID': str(CALLER), 'SUDO_GID': str(CALLER)}
    outcome = run([command, 'attach', '-o', place / 'closed' / 'trace', '--kernel', 'off', str(os.getpid())],
                  env=environment)
    assert outcome.status == 2 and not list((place / 'closed').iterdir()), outcome
    assert b'who called for root' in outcome.stderr
    outcome = run([command, 'attach', '-o', home / 'trace', str(2**22 + 1)], env=environment)
    assert outcome.status == 127 and not (home / 'trace').exists()


def test_a_caller_without_a_name(command, home):
    outcome = run([command, 'record', '--kernel', 'off', '-o', home / 'trace', '--', *PROGRAM],
                  env={'SUDO_UID': str(CALLER), 'SUDO_GID': str(OTHER_GROUP), 'USER': 'root'})
    told = json.loads(outcome.stdout)
    assert told['own']['Uid'] == [str(CALLER)] * 4
    assert told['own']['Gid'] == [str(OTHER_GROUP)] * 4
    assert told['own']['Groups'] == [str(OTHER_GROUP)]
    assert told['environment']['HOME'] == '/' and 'USER' not in told['environment']


@pytest.mark.parametrize('variables', [
    {'SUDO_UID': 'me'}, {'SUDO_UID': '-1', 'SUDO_GID': '1'}, {'SUDO_UID': '4294967295', 'SUDO_GID': '1'},
    {'SUDO_UID': '1 ', 'SUDO_GID': '1'}, {'SUDO_UID': '99999999999999999999', 'SUDO_GID': '1'},
    {'SUDO_UID': '4294967000'}, {'SUDO_UID': '1', 'SUDO_GID': 'x'}, {'DOAS_USER': 'no-such-user'},
])
def test_a_caller_that_is_none_is_refused(command, home, variables):
    outcome = run([command, 'record', '-o', home / 'trace', '--', '/bin/echo', 'ran'], env=variables)
    assert outcome.status == 2 and outcome.stdout == b'' and not (home / 'trace').exists()
    assert re.fullmatch(rb"heapledger: record: \w+ is not a user's: .*\n", outcome.stderr)


def test_the_caller_cannot_write_where_only_root_can(command, place):
    outcome = run([command, 'record', '-o', place / 'trace', '--', '/bin/echo', 'ran'],
                  env={'SUDO_UID': str(CALLER), 'SUDO_GID': str(CALLER)})
    assert outcome.status == 2 and outcome.stdout == b'', outcome
    said = f'Permission denied (as user {CALLER}, who called for root)\n'
    assert outcome.stderr.decode().endswith(said) and not (place / 'trace').exists()


def test_doctor_tries_as_the_caller(command, home, users):
    outcome = run([*users, command, 'doctor'], cwd=home,
                  env={'SUDO_UID': str(CALLER), 'SUDO_GID': str(CALLER)})
    text = ' '.join(outcome.stdout.decode().split())
    assert outcome.status == 0, text
    assert 'user ok programs are recorded as caller, who called for root' in text
    assert 'recording ok' in text and 'observing ok' in text and 'page map ok' in text


# ---- root, and capabilities

@pytest.mark.parametrize('kernel, residency, kept', [
    ('require', 'off', KILL), ('require', '100ms', KILL | PTRACE), ('off', 'off', KILL | PTRACE)])
def test_root_keeps_what_the_recording_needs(build, command, tmp_path, kernel, residency, kept):
    """The program has all that root has."""
    if kernel == 'require':
        skip_without_probe(build)
    plain = run(['/usr/bin/python3', '-I', '-S', '-c', SHOW], env={'HEAPLEDGER_SESSION': '/'})
    outcome = run([command, 'record', '--kernel', kernel, '--residency', residency, '-o',
                   tmp_path / 'trace', '--', *PROGRAM], env={'SUDO_UID': '0', 'SUDO_GID': '0'})
    told, bare = json.loads(outcome.stdout), json.loads(plain.stdout)
    assert told['own']['Uid'] == ['0'] * 4 and sets(told['own']) == sets(bare['own'])
    assert told['own']['NoNewPrivs'] == bare['own']['NoNewPrivs']
    kept &= sets(bare['own'])['CapPrm']
    assert sets(told['recorder']) == {**NOTHING, 'CapPrm': kept, 'CapEff': kept}
    assert is_private(tmp_path / 'trace', 0)


def test_root_keeps_writing_where_modes_forbid_it(command, tmp_path):
    outcome = run(['sh', '-c', 'umask 777 && exec "$@"', 'sh', command, 'record', '--kernel', 'off', '-o',
                   tmp_path / 'trace', '--', *PROGRAM])
    told = json.loads(outcome.stdout)
    assert (tmp_path / 'trace').stat().st_mode & 0o7777 == 0
    kept = (KILL | PTRACE | DAC_OVERRIDE) & sets(told['own'])['CapPrm']
    assert sets(told['recorder']) == {**NOTHING, 'CapPrm': kept, 'CapEff': kept}
    assert json.loads((tmp_path / 'trace' / 'session.json').read_text())['complete']


def test_what_could_not_begin_leaves_nothing(build, command, home):
    """Root takes its folder away again from where only root may."""
    skip_without_probe(build)
    outcome = run([command, 'record', '--kernel', 'require', '-o', home / 'trace', '--', '/bin/true'],
                  env={'HEAPLEDGER_PROBE_RING': 'much'})
    assert outcome.status == 4 and not list(home.iterdir()), outcome


def test_signals_reach_a_program_that_became_another_user(command, tmp_path):
    recorder = subprocess.Popen(
        [command, 'record', '-q', '-o', tmp_path / 'trace', '--', '/usr/bin/python3', '-I', '-S', '-c',
         f'import os, signal\nos.setuid({STRANGER})\nprint(1, flush=True)\nsignal.pause()'],
        stdout=subprocess.PIPE, env=CLEAN_ENVIRONMENT)
    assert recorder.stdout.readline() == b'1\n'
    recorder.send_signal(signal.SIGTERM)
    assert recorder.wait(60) == -signal.SIGTERM


def as_caller(*words):
    return ['setpriv', f'--reuid={CALLER}', f'--regid={CALLER}', '--clear-groups', *words]


@pytest.fixture
def capable(build, place):
    """The command with the capabilities of the probe."""
    skip_without_probe(build)
    path = place / 'analyzer' / 'capable'
    shutil.copy(place / 'analyzer' / 'heapledger', path)
    if not shutil.which('setcap') or run(['setcap', 'cap_bpf,cap_perfmon+ep', path]).status != 0:
        pytest.skip('needs setcap, and a file system that takes it')
    yield path
    path.unlink()


def test_capabilities_of_the_file_are_not_inherited(capable, home):
    """Nor can the user take from the recorder what he could not have opened himself, nor choose
    how large the kernel's ring is."""
    outcome = run(as_caller(capable, 'record', '--kernel', 'require', '-o', home / 'trace', '--',
                            *PROGRAM), env={'HEAPLEDGER_PROBE_RING': 'much'})
    assert outcome.status == 0, outcome
    told = json.loads(outcome.stdout)
    for who in 'own', 'recorder':
        assert told[who]['Uid'] == [str(CALLER)] * 4 and sets(told[who]) == NOTHING
    assert told['recorder_owner'] == 0
    assert is_private(home / 'trace', CALLER)
    outcome = run(as_caller(capable, 'verify', home / 'trace'))
    assert outcome.stdout.startswith(b'VERIFIED'), outcome


def test_ambient_capabilities_are_the_programs_too(build, command, home):
    """As they would be without us."""
    skip_without_probe(build)
    wanted = ['--inh-caps=+bpf,+perfmon', '--ambient-caps=+bpf,+perfmon']
    outcome = run(as_caller(*wanted, command, 'record', '--kernel', 'require', '-o', home / 'trace',
                            '--', *PROGRAM))
    told = json.loads(outcome.stdout)
    assert sets(told['recorder']) == NOTHING
    assert set(sets(told['own']).values()) == {3 << 38}


def test_set_user_id_is_refused(place, home):
    path = place / 'analyzer' / 'set-user-id'
    shutil.copy(place / 'analyzer' / 'heapledger', path)
    path.chmod(0o4755)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        pytest.skip('the file system takes no set-user-ID bit')
    outcome = run(as_caller(path, 'record', '-o', home / 'trace', '--', '/bin/echo', 'ran'))
    path.unlink()
    assert outcome.status == 2 and outcome.stdout == b''
    assert outcome.stderr.startswith(b'heapledger: record: not with the rights of a set-user-ID')


# ---- what others laid in our way

def lay_link(path, target):
    """A link of somebody else."""
    path.symlink_to(target)
    os.lchown(path, STRANGER, STRANGER)


def record_true(command, trace, *options):
    return run([command, 'record', '-q', '--kernel', 'off', *options, '-o', trace, '--', '/bin/sh', '-c',
                ':'])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_link_of_another_user_is_no_trace_to_replace(command, tmp_path):
    assert record_true(command, tmp_path / 'mine').status == 0
    before = contents(tmp_path / 'mine')
    lay_link(tmp_path / 'link', tmp_path / 'mine')
    for name in 'link', 'link/':
        outcome = record_true(command, f'{tmp_path}/{name}', '--force')
        assert outcome.status == 2 and b'is a link of another user' in outcome.stderr, outcome
    assert contents(tmp_path / 'mine') == before
    (tmp_path / 'own').symlink_to('mine')
    assert record_true(command, tmp_path / 'own', '--force').status == 0
    assert contents(tmp_path / 'mine') != before


def test_a_trace_of_another_user_is_not_replaced(command, tmp_path):
    assert record_true(command, tmp_path / 'trace').status == 0
    before = contents(tmp_path / 'trace')
    os.chown(tmp_path / 'trace', STRANGER, STRANGER)
    outcome = record_true(command, tmp_path / 'trace', '--force')
    assert outcome.status == 2 and b'belongs to the user 65534' in outcome.stderr, outcome
    assert contents(tmp_path / 'trace') == before


def test_a_trace_that_is_replaced_becomes_private(command, tmp_path):
    assert record_true(command, tmp_path / 'trace').status == 0
    (tmp_path / 'trace').chmod(0o755)
    assert record_true(command, tmp_path / 'trace', '--force').status == 0
    assert is_private(tmp_path / 'trace', 0)


def alone(place, out):
    return run(['/bin/sh', '-c', 'echo ran'], env={
        'LD_PRELOAD': str(place / 'interposer' / 'libheapledger.so'), 'HEAPLEDGER_OUT': str(out)})


def lay_serials(how, path, precious):
    """Returns what has to stay open."""
    if how == 'link':
        path.symlink_to(precious)
    elif how == 'second name':
        path.hardlink_to(precious)
    elif how == 'pipe':
        os.mkfifo(path)
        return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb')
    else:
        path.write_bytes(b'\n' * 100)
        os.chown(path, STRANGER, STRANGER)
    return None


@pytest.mark.parametrize('how', ['link', 'second name', 'pipe', "another user's"])
def test_a_list_of_serials_that_is_none(place, tmp_path, how):
    out, precious = tmp_path / 'out', tmp_path / 'precious'
    out.mkdir()
    precious.write_bytes(b'precious')
    held = lay_serials(how, out / 'heapledger.serials', precious)
    outcome = alone(place, out)
    assert outcome.status == 0 and outcome.stdout == b'ran\n'
    assert outcome.stderr.startswith(b'heapledger: recording into ')
    assert outcome.stderr.endswith(b'; the program runs on unrecorded\n')
    assert precious.read_bytes() == b'precious' and not list(out.glob('*.hlraw'))
    if held:
        assert not held.read()
        held.close()


def test_raw_files_are_private_and_an_import_follows_no_link(command, place, tmp_path):
    out, precious = tmp_path / 'out', tmp_path / 'precious'
    out.mkdir()
    precious.write_bytes(b'precious')
    assert alone(place, out).stderr == b''
    assert {path.stat().st_mode & 0o7777 for path in out.iterdir()} == {0o600}
    (out / 'session.json.tmp').symlink_to(precious)
    outcome = run([command, 'import', out])
    assert outcome.status == 0, outcome
    assert precious.read_bytes() == b'precious'
    assert {(stat.S_ISREG(path.lstat().st_mode), path.stat().st_mode & 0o7777)
            for path in out.iterdir()} == {(True, 0o600)}


def test_what_root_imports_is_the_directorys_owners(command, place, home):
    # env, so that setpriv itself, which is still root, is not recorded
    outcome = run(as_caller('env', f'HEAPLEDGER_OUT={home}',
                            f'LD_PRELOAD={place}/interposer/libheapledger.so', '/bin/sh', '-c', ':'))
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    assert run([command, 'import', home]).status == 0
    assert {path.stat().st_uid for path in home.iterdir()} == {CALLER}
    assert run(as_caller(command, 'analyze', home)).status == 0


def test_a_session_of_another_user_is_not_joined(command, place, home):
    """Its name lives on in the environment when the file is gone."""
    library = place / 'interposer' / 'libheapledger.so'
    recorder = subprocess.Popen(
        [command, 'record', '-q', '--kernel', 'off', '-o', home / 'trace', '--', '/bin/sh', '-c',
         'echo $HEAPLEDGER_SESSION; read wait'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**CLEAN_ENVIRONMENT, 'SUDO_UID': str(CALLER), 'SUDO_GID': str(CALLER)})
    try:
        joined = {'HEAPLEDGER_SESSION': recorder.stdout.readline().decode().strip(),
                  'LD_PRELOAD': str(library)}
        assert run(['/bin/sh', '-c', 'exit 3'], env=joined).status == 3
        assert run(as_caller('env', *(f'{name}={value}' for name, value in joined.items()),
                             '/bin/sh', '-c', 'exit 4')).status == 4
    finally:
        recorder.communicate(b'\n', 60)
    streams = json.loads((home / 'trace' / 'session.json').read_text())['streams']
    assert sorted(stream['command'][-1] for stream in streams) == [
        'echo $HEAPLEDGER_SESSION; read wait', 'exit 4']


@pytest.fixture(scope='module')
def small(place, tmp_path_factory):
    trace = tmp_path_factory.mktemp('small') / 'trace'
    assert record_true(place / 'analyzer' / 'heapledger', trace).status == 0
    return trace


def test_results_go_through_no_link_of_another_user(command, heapledger, small, tmp_path):
    pipe, folder = tmp_path / 'pipe', tmp_path / 'folder'
    os.mkfifo(pipe)
    folder.mkdir()
    lay_link(tmp_path / 'to-pipe', pipe)
    lay_link(tmp_path / 'to-folder', folder)
    os.mkfifo(tmp_path / 'his-pipe')
    os.chown(tmp_path / 'his-pipe', STRANGER, STRANGER)
    for tool, *words in [(command, 'analyze', small, '--json', tmp_path / 'to-pipe'),
                         (command, 'analyze', small, '--json', tmp_path / 'his-pipe'),
                         (command, 'analyze', small, '--csv', tmp_path / 'to-folder'),
                         (heapledger, 'report', small, '-o', tmp_path / 'to-pipe'),
                         (heapledger, 'report', small, '--png', tmp_path / 'to-folder')]:
        outcome = run([tool, *words], timeout=30)
        assert outcome.status == 2 and outcome.stderr.count(b'\n') == 1, outcome
    assert not list(folder.iterdir())


def test_a_pipe_that_is_standard_output_may_be_anybodys(command, small):
    """As by `sudo heapledger analyze --json /dev/stdout | ...`."""
    read, write = os.pipe()
    os.fchown(write, STRANGER, STRANGER)
    analyzer = subprocess.Popen([command, 'analyze', small, '--json', '/dev/stdout'], stdout=write,
                                env=CLEAN_ENVIRONMENT)
    os.close(write)
    with open(read, 'rb') as stream:
        assert b'heapledger-analysis/1' in stream.read()
    assert analyzer.wait(60) == 0


def test_a_result_takes_the_place_of_a_link(command, small, tmp_path):
    """What it points to stays as it is."""
    (tmp_path / 'precious').write_bytes(b'precious')
    lay_link(tmp_path / 'result.json', tmp_path / 'precious')
    assert run([command, 'analyze', small, '--json', tmp_path / 'result.json']).status == 0
    assert (tmp_path / 'precious').read_bytes() == b'precious'
    assert (tmp_path / 'result.json').is_file() and not (tmp_path / 'result.json').is_symlink()


def test_a_pipe_in_the_place_of_session_json_is_not_read(heapledger, small, tmp_path):
    trace = shutil.copytree(small, tmp_path / 'trace')
    (trace / 'session.json').unlink()
    os.mkfifo(trace / 'session.json')
    (tmp_path / 'heap.toml').write_text('[events]\nlost = 0\n')
    assert run([heapledger, 'analyze', trace], timeout=30).status == 0
    assert run([heapledger, 'check', trace, '--budget', tmp_path / 'heap.toml'], timeout=30).status == 0


# ---- names

EVIL = '\x1b]0;evil\x07\x9b31m\u202e<img src=x onerror=alert(1)>,=1+1\n"'
UNSEEN = {'Cc', 'Cf', 'Cs', 'Zl', 'Zp'}


def is_plain(text):
    return all(unicodedata.category(c) not in UNSEEN for c in text.replace('\n', ''))


@pytest.fixture(scope='module')
def evil(build, tmp_path_factory):
    """The trace of a program with such a name, of a module with such a path, in such a phase."""
    folder = tmp_path_factory.mktemp('evil')
    program = folder / EVIL / EVIL
    program.parent.mkdir()
    shutil.copy(build / 'tests' / 'victims' / 'victim_phases_pie', program)
    trace = folder / 'trace'
    outcome = run([build / 'analyzer' / 'heapledger', 'record', '--stacks', '8', '--kernel', 'off', '-o',
                   trace, '--', program, 'names', '10', EVIL])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    return trace


def test_names_are_escaped_on_the_terminal(heapledger, evil):
    for words in ['analyze', evil], ['dump', '--stacks', evil], ['verify', evil], [
            'analyze', evil, '--json', '-']:
        outcome = run([heapledger, *words])
        for stream in outcome.stdout, outcome.stderr:
            assert is_plain(stream.decode()), (words, stream[:2000])
    text = run([heapledger, 'dump', '--stacks', evil]).stdout.decode()
    assert r'\x1b]0;evil\x07\xc2\x9b31m\xe2\x80\xae<img' in text


def test_names_are_escaped_on_the_page(heapledger, evil, tmp_path):
    outcome = run([heapledger, 'report', evil, '-o', tmp_path / 'report.html'])
    if outcome.status == 2 and b'python3-matplotlib' in outcome.stderr:
        pytest.skip('reports need python3-matplotlib')
    page = (tmp_path / 'report.html').read_text()
    assert outcome.status == 0 and is_plain(page)
    assert '<img' not in page and '&lt;img src=x onerror=alert(1)&gt;' in page


@pytest.mark.parametrize('words', [
    ['record', '--', EVIL], ['record', EVIL], ['analyze', EVIL], [EVIL], ['dump', f'--{EVIL}', '.'],
    ['mark', EVIL, 'x'], ['check', EVIL, '--budget', EVIL]])
def test_messages_are_one_plain_line(heapledger, tmp_path, words):
    outcome = run([heapledger, *words], cwd=tmp_path)
    assert outcome.status in (2, 3, 127) and outcome.stdout == b''
    assert outcome.stderr.count(b'\n') == 1 and is_plain(outcome.stderr.decode()), outcome


@pytest.mark.parametrize('name', ['\x1b[2J.hlt', '=1+1.hlt', '1.1,2.hlt', '"1".hlt', '1 1.hlt'])
def test_a_stream_of_such_a_name_is_refused(heapledger, small, tmp_path, name):
    trace = shutil.copytree(small, tmp_path / 'trace')
    stream, = trace.glob('*.hlt')
    stream.rename(trace / name)
    for words in ['analyze', trace], ['dump', trace]:
        outcome = run([heapledger, *words])
        assert outcome.status == 3 and outcome.stdout == b'' and is_plain(outcome.stderr.decode())


def test_strings_of_session_json_are_escaped(heapledger, small, tmp_path):
    trace = shutil.copytree(small, tmp_path / 'trace')
    session = json.loads((trace / 'session.json').read_text())
    session.update(model=EVIL, tunables={EVIL: EVIL}, tunables_set=[EVIL], notes=[EVIL],
                   command=[EVIL], complete=False)
    session['kernel'].update(state=EVIL, why=EVIL)
    session['streams'].append({**session['streams'][0], 'file': EVIL})
    (trace / 'session.json').write_text(json.dumps(session))
    for words in ['analyze', trace], ['dump', trace], ['verify', trace]:
        outcome = run([heapledger, *words])
        for stream in outcome.stdout, outcome.stderr:
            assert is_plain(stream.decode()), (words, stream)


def test_what_a_program_says_of_itself_is_escaped(place, tmp_path):
    outcome = alone(place, tmp_path / 'no\x1b[2J\x9b')
    assert outcome.stdout == b'ran\n' and is_plain(outcome.stderr.decode()), outcome
