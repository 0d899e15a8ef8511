# SPDX-License-Identifier: MIT
"""redis-server with two I/O threads under redis-benchmark, on a socket of its own; what was stored
is read back, saved by a forked child, and read back again after a restart."""

import signal
import socket
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, assert_sound, redis_server, run, without_own_lines

VALUES = 3000


def server_arguments(program):
    return [program, '--port', '0', '--unixsocket', 'redis.sock', '--save', '', '--io-threads', '2',
            '--io-threads-do-reads', 'yes', '--dbfilename', 'dump.rdb', '--daemonize', 'no',
            '--logfile', 'redis.log', '--appendonly', 'no']


def encode(*words):
    """A command in redis's protocol."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(w), w) for w in words)


class Client:
    """Just enough of the protocol to store and read back."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile('rwb')

    def ask(self, *words):
        return self.ask_all([words])[0]

    def ask_all(self, commands):
        self.stream.write(b''.join(encode(*words) for words in commands))
        self.stream.flush()
        return [self.answer() for _ in commands]

    def answer(self):
        line = self.stream.readline()
        assert line, 'the server closed the connection'
        kind, rest = line[:1], line[1:-2]
        if kind == b'$':
            length = int(rest)
            return None if length < 0 else self.stream.read(length + 2)[:-2]
        if kind == b'*':
            return [self.answer() for _ in range(int(rest))]
        assert kind != b'-', line
        return rest


class Server:
    """A server process in a folder; ended in every case."""

    def __init__(self, argv, env, folder):
        self.folder = folder
        self.errors = open(folder / 'stderr', 'ab')
        self.process = subprocess.Popen(
            [str(word) for word in argv], cwd=folder, env={**CLEAN_ENVIRONMENT, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors)

    def __enter__(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / 'stderr').read_bytes()
            try:
                self.client = Client(self.folder / 'redis.sock')
                assert self.client.ask('PING') == b'PONG'
                return self
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.05)
        raise AssertionError((self.folder / 'redis.log').read_text())

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.errors.close()

    def shut_down(self):
        """As an operator does; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def value(number):
    return b'value-%d-' % number * (number % 300 + 1)


def store(client):
    """Strings, lists and hashes, overwritten and deleted, large ones among them."""
    client.ask_all([('SET', f'k{n}', value(n)) for n in range(VALUES)])
    client.ask_all([('APPEND', f'k{n}', b'+' * (n % 977)) for n in range(0, VALUES, 3)])
    client.ask_all([('DEL', f'k{n}') for n in range(0, VALUES, 7)])
    client.ask_all([('RPUSH', 'list', value(n)) for n in range(VALUES)])
    client.ask_all([('HSET', f'h{n % 50}', f'f{n}', n * n) for n in range(VALUES)])
    client.ask('SET', 'large', b'x' * (5 << 20))


def read_back(client):
    """What is stored must be what went in, whoever's allocator held it."""
    found = client.ask_all([('GET', f'k{n}') for n in range(VALUES)])
    for n, content in enumerate(found):
        wanted = value(n) + (b'+' * (n % 977) if n % 3 == 0 else b'')
        assert content == (None if n % 7 == 0 else wanted), n
    assert client.ask('LRANGE', 'list', 0, -1) == [value(n) for n in range(VALUES)]
    for n in range(0, VALUES, 11):
        assert client.ask('HGET', f'h{n % 50}', f'f{n}') == b'%d' % (n * n)
    assert client.ask('GET', 'large') == b'x' * (5 << 20)


def benchmark(folder):
    outcome = run(['redis-benchmark', '-s', 'redis.sock', '-n', '20000', '-c', '20', '-P', '8',
                   '-d', '400', '-r', '5000', '-q', '-t', 'set,get,lpush,lpop,hset,sadd,mset'],
                  cwd=folder)
    assert outcome.status == 0, outcome
    assert b'rror' not in outcome.stdout + outcome.stderr, outcome
    return outcome.stdout.count(b'requests per second')


def work(server):
    """The whole life of a server; returns how it ended."""
    assert benchmark(server.folder) == 7
    server.client.ask('FLUSHALL')
    store(server.client)
    read_back(server.client)
    assert b'io_threads_active:' in server.client.ask('INFO', 'server')
    # A forked child writes the file while the parent goes on changing.
    server.client.ask('BGSAVE')
    server.client.ask_all([('SET', 'changing', value(n)) for n in range(VALUES)])
    deadline = time.monotonic() + 60
    while b'rdb_bgsave_in_progress:1' in server.client.ask('INFO', 'persistence'):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert b'rdb_last_bgsave_status:ok' in server.client.ask('INFO', 'persistence')
    return server.shut_down()


@pytest.mark.parametrize('way', ['plain', 'library', 'recorded'])
def test_server_under_load(preload, heapledger, tmp_path, way):
    argv, env = server_arguments(redis_server(tmp_path)), {}
    trace = tmp_path / 'trace'
    if way == 'library':
        env = preload.environment()
    if way == 'recorded':
        argv = preload.record_command(argv, trace)
    with Server(argv, env, tmp_path) as server:
        assert work(server) == 0
    assert without_own_lines((tmp_path / 'stderr').read_bytes()) == b''
    assert 'bye bye' in (tmp_path / 'redis.log').read_text()
    # The restarted server, not ours, finds what was saved.
    with Server(server_arguments(server_program_again(tmp_path)), {}, tmp_path) as server:
        read_back(server.client)
    if way == 'recorded':
        analysis = analyze(heapledger, trace)
        assert_sound(analysis, 500_000, trace)
        assert len(analysis['processes']) >= 2, 'the server and the child that saved'


def server_program_again(folder):
    linked = folder / 'redis-server'
    return linked if linked.exists() else redis_server(folder)
