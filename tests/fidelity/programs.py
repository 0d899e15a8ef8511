# SPDX-License-Identifier: MIT
"""The programs of the fidelity table: each makes its input in a folder and is run there, with some
words before its command. The same work for the same folder, every time."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / 'programs'))
sys.dont_write_bytecode = True

from test_gcc import TEMPLATES, large_c_file  # noqa: E402
from test_git import ENVIRONMENT as GIT_ENVIRONMENT  # noqa: E402
from test_git import SCRIPT as GIT_SCRIPT  # noqa: E402
from test_perl import SCRIPT as PERL_SCRIPT  # noqa: E402

ENVIRONMENT = {
    'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'LC_ALL': 'C.UTF-8',
    'HOME': '/nonexistent',
    'PYTHONHASHSEED': '1',
    'PERL_HASH_SEED': '1',
}
PYTHON_SCRIPT = '''
import collections, json, re, xml.etree.ElementTree as tree
rows = [{'id': i, 'name': 'row %d' % i, 'text': 'word ' * (i % 60)} for i in range(ROWS)]
text = json.dumps(rows)
assert json.loads(text) == rows
count = collections.Counter(re.findall('[a-z]+ [0-9]+', text))
root = tree.Element('root')
for row in rows[::3]:
    tree.SubElement(root, 'row', {'id': str(row['id'])}).text = row['text']
parsed = tree.fromstring(tree.tostring(root))
rows = [row for row in rows if row['id'] % 4]
blocks = [bytes(n * 997 % 300000) for n in range(300)]
print(len(text), len(count), len(parsed), len(rows), sum(map(len, blocks)))
'''


class Program:
    """A command, and what must lie in its folder before it."""

    statuses = (0,)
    plain = ''  # the variable that glibc's own malloc needs

    def __init__(self, name, argv, prepare=lambda folder: None, env=None, input=None):
        self.name, self.argv, self.prepare = name, argv, prepare
        self.env, self.input = env or {}, input

    def start(self, folder, prefix):
        command = [str(word) for word in (*prefix, *self.argv)]
        environment = {**ENVIRONMENT, **self.env}
        stdin = subprocess.DEVNULL
        if self.input:
            (folder / 'stdin').write_bytes(self.input)
            stdin = open(folder / 'stdin', 'rb')
        try:
            return subprocess.Popen(command, cwd=folder, env=environment, stdin=stdin,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                    text=True)
        finally:
            if self.input:
                stdin.close()

    def run(self, folder, prefix=()):
        process = self.start(folder, prefix)
        try:
            self.load(folder)
            said = process.communicate(timeout=600)[1]
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode not in self.statuses:
            sys.exit(f'fidelity: {self.name}: status {process.returncode}: {said[-500:]}')

    def load(self, folder):
        """What another program does to this one while it runs."""


class Perl(Program):
    statuses = (5,)  # as its script says


class Redis(Program):
    """The server is measured; redis-benchmark loads it. Always the same number of commands."""

    # Debian links redis to jemalloc; libc named first is found first.
    plain = 'LD_PRELOAD=/lib/x86_64-linux-gnu/libc.so.6'
    LOAD = ['redis-benchmark', '-s', 'redis.sock', '-n', '40000', '-c', '20', '-P', '8', '-d',
            '400', '-r', '20000', '-q', '-t', 'set,get,lpush,lpop,hset,sadd,mset']

    def client(self, folder, *words):
        return subprocess.run(words, cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)

    def load(self, folder):
        for _ in range(6000):
            if self.client(folder, 'redis-cli', '-s', 'redis.sock', 'ping').stdout == 'PONG\n':
                break
            time.sleep(0.005)  # short: it is part of the time
        outcome = self.client(folder, *self.LOAD)
        if outcome.returncode != 0:
            sys.exit(f'fidelity: redis-benchmark: {outcome.stderr[-500:]}')
        self.client(folder, 'redis-cli', '-s', 'redis.sock', 'flushall')
        self.client(folder, *self.LOAD)
        self.client(folder, 'redis-cli', '-s', 'redis.sock', 'shutdown', 'nosave')


def redis():
    program = shutil.which('redis-server', path=ENVIRONMENT['PATH'])
    argv = ['--port', '0', '--unixsocket', 'redis.sock', '--save', '', '--daemonize', 'no',
            '--appendonly', 'no']
    if program:
        return Redis('redis-server', [program, *argv])
    # The package redis-tools has the very program under another name.
    return Redis('redis-server', ['./redis-server', *argv], prepare=lambda folder:
                 (folder / 'redis-server').symlink_to('/usr/bin/redis-check-rdb'))


def sqlite(rows):
    script = subprocess.run(
        [sys.executable, TESTS.parent / 'examples' / 'sqlite_script.py', '--tables', '12', '--rows',
         str(rows)], check=True, capture_output=True).stdout
    return Program('sqlite3', ['sqlite3', ':memory:'], input=script)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def python(allocator, rows=30000):
    return Program(f'python3 {allocator}', ['/usr/bin/python3', '-B', 'script.py'],
                   write('script.py', f'ROWS = {rows}\n' + PYTHON_SCRIPT),
                   env={'PYTHONMALLOC': allocator})


def git():
    """The repository is made once; each run works on a copy."""
    made = GIT_SCRIPT[:GIT_SCRIPT.index('git gc')]
    env = {**ENVIRONMENT, **GIT_ENVIRONMENT}

    def prepare(folder):
        subprocess.run(['sh', '-c', made], cwd=folder, env=env, check=True)

    return Program('git gc', ['git', '-C', 'cloned', 'gc', '-q', '--aggressive', '--prune=now'],
                   prepare, env=GIT_ENVIRONMENT)


def compressible(folder):
    chance = random.Random(3)
    pieces = [chance.randbytes(chance.randint(20, 400)) for _ in range(4096)]
    (folder / 'data').write_bytes(b''.join(chance.choices(pieces, k=240000)))


def programs():
    return [
        sqlite(4000),
        Program('gcc', ['gcc', '-O2', '-c', 'large.c'], write('large.c', large_c_file(500))),
        Program('g++', ['g++', '-std=c++17', '-O2', '-c', 'templates.cc'],
                write('templates.cc', TEMPLATES)),
        python('default'),
        python('malloc'),
        Perl('perl', ['/usr/bin/perl', 'script.pl'], write('script.pl', PERL_SCRIPT)),
        git(),
        redis(),
        Program('xz -T2', ['xz', '-T2', '-1', '--block-size=4MiB', '-k', 'data'], compressible),
    ]


def trivial():
    """Allocates next to nothing: what a preloaded library costs every program."""
    return Program('cat', ['cat', os.devnull])
