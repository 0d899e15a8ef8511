# SPDX-License-Identifier: MIT
"""A slice of Python's own test suite, run by the distribution's interpreter, with its small-object
allocator (default) and with every object from malloc."""

import xml.etree.ElementTree as ElementTree

import pytest

PYTHON = '/usr/bin/python3'

# Containers, text, C extensions; threads and forks.
OBJECTS = ['test_list', 'test_dict', 'test_set', 'test_bytes', 'test_json', 'test_re', 'test_deque',
           'test_gc', 'test_zlib', 'test_ctypes', 'test_decimal', 'test_mmap', 'test_array']
THREADS = ['test_threading', 'test_thread', 'test_fork1']


def results(folder):
    """Every case with how it ended; times are left out."""
    found = {}
    for case in ElementTree.parse(folder / 'results.xml').iter('testcase'):
        name = case.get('name')
        found[name] = sorted(child.tag for child in case if not child.tag.startswith('system-'))
    return found


def without_times(text):
    """Progress lines carry times and load; results.xml has what counts."""
    return b'Tests result: SUCCESS' in text


def test_own_suite(preload):
    own_suite(preload, OBJECTS, 'malloc')


def test_own_suite_with_its_small_object_allocator(preload):
    """There is less to do for us, so fewer modules do."""
    own_suite(preload, OBJECTS[:5], 'default')


def test_own_suite_of_threads(preload):
    """Mostly waiting; with every object from malloc there is more to do in between."""
    own_suite(preload, THREADS, 'malloc', waits=True)


def test_own_suite_of_processes(preload):
    """fork, vfork, posix_spawn, signals and pipes: hundreds of children."""
    own_suite(preload, ['test_subprocess'], 'default', waits=True)


def own_suite(preload, modules, malloc, waits=False):
    env = {'PYTHONMALLOC': malloc, 'PYTHONDONTWRITEBYTECODE': '1', 'PYTHONHASHSEED': '1'}
    result = preload.compare(
        [PYTHON, '-m', 'test', '--junit-xml', 'results.xml', *modules],
        env=env, result=results, normalise=without_times, timeout=280, waits=waits,
        least_calls=1_000_000 if malloc == 'malloc' else 100_000)
    assert result.plain.status == 0, result.plain
    assert len(result.plain.result) > 100
    command = result.analysis['command']
    assert command[0] == PYTHON


@pytest.mark.parametrize('malloc', ['default', 'malloc', 'malloc_debug'])
def test_script(preload, malloc):
    """Output of an ordinary script, with the marks that malloc_debug puts around every block."""
    code = ('import json, collections, sys\n'
            'd = {str(i): list(range(i % 50)) for i in range(40000)}\n'
            's = json.dumps(d); e = json.loads(s); assert d == e; del d\n'
            'print(len(s), collections.Counter(map(len, e.values())).most_common(3))\n'
            'sys.stderr.write("to stderr\\n"); sys.exit(7)\n')
    result = preload.compare([PYTHON, '-c', code], env={'PYTHONMALLOC': malloc})
    assert result.plain.status == 7
