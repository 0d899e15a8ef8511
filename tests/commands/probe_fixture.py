# SPDX-License-Identifier: MIT
"""For the tests of the kernel probe: whether it can run here, and traces that tell a lie, made from
true ones by editing single system calls in the log."""

import ctypes
import ctypes.util
import os
import struct
import zlib
from pathlib import Path

import pytest

BLOCK = '<IHBBIIQQQIIII'
BLOCK_BYTES = struct.calcsize(BLOCK)
SYSCALL_KINDS = {'brk': 32, 'mmap': 33, 'munmap': 34, 'mremap': 35, 'madvise': 36, 'mprotect': 37,
                 'process_fork': 58, 'process_exit': 60}
SYSCALLS = range(32, 40)
WIDE = {*SYSCALLS, 53, *range(58, 62), 67}
MARKS = {49, 50, 51, 52, 54, 55, 57, 64, 65, 66}
RESULT = 2  # among the words of a system call
TICK = 62


def skip_without_probe(build):
    """Where the probe must work, a probe that does not is a failure and no reason to skip."""
    if os.geteuid() != 0:
        pytest.skip('the kernel probe needs root')
    if not Path('/sys/kernel/btf/vmlinux').exists():
        pytest.skip('the kernel has no BTF')
    if Path('/proc/self/ns/pid').stat().st_ino != 0xeffffffc:
        pytest.skip('in a container')
    if not (build / 'bpf' / 'probe.skel.h').exists():
        pytest.skip('built without the kernel probe')


def varint(data, at):
    if data[at] == 0:
        return int.from_bytes(data[at + 1:at + 9], 'little'), at + 9
    more = (data[at] & -data[at]).bit_length()
    return int.from_bytes(data[at:at + more], 'little') >> more, at + more


def put_varint(value):
    if value >> 56:
        return b'\0' + value.to_bytes(8, 'little')
    length = max(1, (value.bit_length() + 6) // 7)
    return ((value << 1 | 1) << length - 1).to_bytes(length, 'little')


def unzigzag(value):
    return value >> 1 if value % 2 == 0 else -(value + 1) // 2


def zigzag(value):
    return value * 2 if value >= 0 else -value * 2 - 1


def decompress(data, length):
    zstd = ctypes.CDLL(ctypes.util.find_library('zstd') or 'libzstd.so.1')
    zstd.ZSTD_decompress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(length)
    got = zstd.ZSTD_decompress(out, ctypes.c_size_t(length), data, ctypes.c_size_t(len(data)))
    assert got == length
    return out.raw


class Spelled:
    """Takes what is in OTHER: kind, tick and addr as numbers, the rest as a list."""

    def __init__(self, data, tick):
        self.data, self.at, self.tick, self.addr = data, 0, tick, 0

    def varint(self):
        value, self.at = varint(self.data, self.at)
        return value

    def words(self, kind):
        if kind in MARKS:
            return [self.varint(), self.varint()]
        if kind in WIDE:
            words = [self.varint() for _ in range(10)]
            if kind in SYSCALLS:
                words[RESULT] = unzigzag(words[RESULT])
            return words
        words = [self.varint(), self.varint()]  # a call: size, chunk, perhaps flags ...
        for _ in range(3 if words[1] & 1 else 2):
            words.append(self.varint())  # ... caller, alignment
        return words

    def record(self):
        """None for a TICK."""
        kind = self.data[self.at]
        self.at += 1
        self.tick += self.varint()
        if kind == TICK:
            return None
        self.addr += unzigzag(self.varint())
        return {'token': 0, 'kind': kind, 'tick': self.tick, 'addr': self.addr,
                'words': self.words(kind)}


def unpack(payload, tick):
    """Records as dictionaries, those with a token without what it stands for; and the columns that
    belong to the tokens, as they are."""
    lengths = struct.unpack_from('<5I', payload)
    columns, start = [], 20
    for length in lengths:
        columns.append(payload[start:start + length])
        start += length
    spelled, records, at = Spelled(columns[4], tick), [], 0
    while at < len(columns[0]):
        token, at = varint(columns[0], at)
        record = spelled.record() if token == 0 else {
            'token': token, 'kind': 0, 'tick': spelled.tick, 'addr': 0}
        if record:
            records.append(record)
    return records, columns[1:4]


def pack(records, columns, tick):
    site, other, addr = bytearray(), bytearray(), 0
    for record in records:
        kind, token, passed = record['kind'], record['token'], record['tick'] - tick
        tick = record['tick']
        if token and passed:
            site += put_varint(0)
            other += bytes([TICK]) + put_varint(passed)
        site += put_varint(token)
        if token:
            continue
        other += bytes([kind]) + put_varint(passed) + put_varint(zigzag(record['addr'] - addr))
        addr = record['addr']
        for word, value in enumerate(record['words']):
            other += put_varint(zigzag(value) if kind in SYSCALLS and word == RESULT else value)
    columns = [site, *columns, other]
    return struct.pack('<5I', *map(len, columns)) + b''.join(columns)


def rewrite(path, edit):
    """Puts every block of a stream through edit(records), a list in and a list out, and closes it
    again with all sums right: a sound stream that says something else."""
    data = path.read_bytes()
    at, = struct.unpack_from('<I', data, 12)
    out = bytearray(data[:at])
    while at < len(data):
        fields = list(struct.unpack_from(BLOCK, data, at))
        payload = data[at + fields[1]:at + fields[1] + fields[10]]
        at += fields[1] + fields[10]
        if fields[2]:
            payload = decompress(payload, fields[9])
        records, columns = unpack(payload, fields[7])
        assert len(records) == fields[5] and pack(records, columns, fields[7]) == payload
        records = edit(records)
        fields[5], fields[7], fields[8] = len(records), records[0]['tick'], records[-1]['tick']
        payload = pack(records, columns, fields[7])
        fields[2], fields[9:13] = 0, [len(payload), len(payload), zlib.crc32(payload), 0]
        fields[12] = zlib.crc32(struct.pack(BLOCK, *fields))
        out += struct.pack(BLOCK, *fields) + payload
    path.write_bytes(out)


def rewrite_header(path, offset, layout, value):
    """Sets one field of a stream's header and its sum."""
    data = bytearray(path.read_bytes())
    header_bytes, = struct.unpack_from('<I', data, 12)
    struct.pack_into(layout, data, offset, value)
    struct.pack_into('<I', data, 124, 0)
    struct.pack_into('<I', data, 124, zlib.crc32(data[:header_bytes]))
    path.write_bytes(data)
