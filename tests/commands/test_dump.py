# SPDX-License-Identifier: MIT
"""`heapledger dump`: what a line looks like, what the options choose, and what it says of a trace
that is cut, damaged, of another version, or no trace at all."""

import pytest

from conftest import run
from trace_script import SCRIPT, make_trace

LINES = '''\
100.1 0.000000000 7 brk from=0x555555560000 to=0x555555581000 = 0x555555581000 reason=grow_top \
region=break arena=0 call=malloc call_size=0 mmap_threshold=131072 trim_threshold=131072 \
top_pad=131072 ns=2000
100.1 0.000000100 7 malloc size=100 = 0x555555560010 chunk=112
100.1 0.000000150 9 calloc size=5000 = 0x555555561000 chunk=5008
100.1 0.000000200 7 posix_memalign alignment=64 size=200 = 0x555555560100 chunk=208
'''


@pytest.fixture
def trace(build, tmp_path):
    return make_trace(build, tmp_path / 'trace', SCRIPT)


def dump(heapledger, *arguments):
    return run([heapledger, 'dump', *arguments])


def test_lines_are_in_time_order_and_say_everything(heapledger, trace):
    outcome = dump(heapledger, trace)
    assert outcome.status == 0, outcome
    text = outcome.stdout.decode()
    assert text.startswith(LINES), text
    times = [float(line.split()[1]) for line in text.splitlines()]
    assert times == sorted(times)
    assert '7 realloc size=262144 = 0x7ffff7f00010 chunk=270336 mmapped\n' in text
    assert '0 sample rss_anon=1000000 rss_file=2000000 rss_shmem=300000' in text
    assert text.endswith(' 7 exit\n')


CALLERS = '''
stream 100 1 0 0 1000
syscall 7 1000 33 0 4096 3 0x7ffff7fb0000 1500 1 4 3 0x401000
call 7 1000 1 0x555555560010 100 112 0 0 0x401000
call 7 1000 48 0x555555560010 0 0 0 0 0x401010
call 7 1000 3 0x7ffff7fb0010 4000 4096 1 0 0x401010
call 7 1000 9 0x7ffff7fb0010 0 0 0 0 0x401020
call 7 1000 5 0x555555560100 200 208 0 64 0x401030
close 1 1 0 2300 0
'''


def test_callers_are_the_last_word(heapledger, build, tmp_path):
    trace = make_trace(build, tmp_path / 'callers', CALLERS)
    lines = dump(heapledger, '--no-time', trace).stdout.decode().splitlines()
    assert lines[0].endswith(' top_pad=131072 caller=0x401000')
    assert lines[1:] == [
        '100.1 7 malloc size=100 = 0x555555560010 chunk=112 caller=0x401000',
        '100.1 7 realloc_begin 0x555555560010 caller=0x401010',
        '100.1 7 realloc size=4000 = 0x7ffff7fb0010 chunk=4096 mmapped caller=0x401010',
        '100.1 7 free 0x7ffff7fb0010 caller=0x401020',
        '100.1 7 memalign alignment=64 size=200 = 0x555555560100 chunk=208 caller=0x401030']


def test_kinds_streams_and_no_time(heapledger, trace):
    frees = dump(heapledger, '--kind', 'free,munmap', '--no-time', trace).stdout.decode()
    assert [line.split()[2] for line in frees.splitlines()] == ['free', 'munmap', 'free', 'free']
    assert ' ns=' not in frees and frees.startswith('100.1 7 free 0x7ffff7f00010\n')
    assert dump(heapledger, '--stream', '100.1', trace).stdout == dump(heapledger, trace).stdout


@pytest.mark.parametrize('arguments, message', [
    (['--kind', 'mallok'], b'"mallok" is not a kind of event'),
    (['--stream', '7.7'], b'no stream 7.7 in this trace'),
    (['--colour'], b'heapledger: dump: unknown option --colour'),
])
def test_wrong_use_is_2(heapledger, trace, arguments, message):
    outcome = dump(heapledger, *arguments, trace)
    assert outcome.status == 2 and message in outcome.stderr, outcome


def test_unreadable_is_3_and_names_file_and_offset(heapledger, trace):
    file = trace / '100.1.hlt'
    whole = file.read_bytes()
    cases = {
        whole[:-1]: b'the file ends inside a block',
        whole[:50]: b'offset 0: too short for a trace',
        b'X' + whole[1:]: b'offset 0: not a heapledger trace',
        whole[:8] + b'\x09' + whole[9:]: b'offset 8: trace format version 9; this heapledger reads '
                                         b'version 5 only',
        whole[:-1] + bytes([whole[-1] ^ 1]): b'the block is damaged (checksum)',
    }
    for content, message in cases.items():
        file.write_bytes(content)
        outcome = dump(heapledger, trace)
        assert outcome.status == 3, (message, outcome)
        assert message in outcome.stderr and b'100.1.hlt: offset ' in outcome.stderr, outcome.stderr
        assert outcome.stderr.splitlines()[-1].startswith(b'heapledger: dump: '), outcome.stderr


def test_a_cut_incomplete_stream_is_read_up_to_there(heapledger, build, tmp_path):
    trace = make_trace(build, tmp_path / 'trace', SCRIPT.replace('close 1', 'close 0'))
    whole = dump(heapledger, trace).stdout.splitlines()
    file = trace / '100.1.hlt'
    file.write_bytes(file.read_bytes()[:-7])
    outcome = dump(heapledger, trace)
    assert outcome.status == 0, outcome
    assert b'INCOMPLETE' in outcome.stderr and b'are cut off and left out' in outcome.stderr
    assert 0 < len(outcome.stdout.splitlines()) < len(whole)


def test_no_trace_is_3(heapledger, tmp_path):
    for path in tmp_path, tmp_path / 'nowhere':
        outcome = dump(heapledger, path)
        assert outcome.status == 3 and str(path).encode() in outcome.stderr, outcome
