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
SYSCALL_KINDS = {'brk': 32, 'mmap': 33, 'munmap': 34, 'mremap': 35, 'madvise': 36, 'mprotect': 37}
WIDE = {*range(32, 39), 53}
ALIGNED = {4, 5, 6, 7, 8}
RESULT = 2  # among the words in PLAIN


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
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7f) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def put_varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return out


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


def unpack(payload, count, tick):
    """Records as dictionaries: tick and addr as numbers, PLAIN as a list, the rest as it lies."""
    lengths = struct.unpack_from('<6I', payload)
    columns, start = [], 24
    for length in lengths:
        columns.append(payload[start:start + length])
        start += length
    kinds, ticks, addresses, sizes, chunks, plain = columns
    at = [0] * 6
    addr = 0
    for i in range(count):
        kind, bare = kinds[i] & 0x7f, kinds[i] & 0x80
        delta, at[1] = varint(ticks, at[1])
        tick += delta
        delta, at[2] = varint(addresses, at[2])
        addr += unzigzag(delta)
        size = chunk = b''
        if kind not in WIDE and not bare:
            _, end = varint(sizes, at[3])
            size, at[3] = sizes[at[3]:end], end
            value, end = varint(chunks, at[4])
            if value & 1:
                _, end = varint(chunks, end)
            chunk, at[4] = chunks[at[4]:end], end
        words = []
        for word in range(10 if kind in WIDE else 4 if kind in ALIGNED else 0):
            value, at[5] = varint(plain, at[5])
            words.append(unzigzag(value) if kind in range(32, 39) and word == RESULT else value)
        yield {'kind': kind, 'bare': bare, 'tick': tick, 'addr': addr, 'size': size, 'chunk': chunk,
               'words': words}


def pack(records, tick):
    columns = [bytearray() for _ in range(6)]
    addr = 0
    for record in records:
        kind = record['kind']
        columns[0].append(kind | record['bare'])
        columns[1] += put_varint(record['tick'] - tick)
        columns[2] += put_varint(zigzag(record['addr'] - addr))
        columns[3] += record['size']
        columns[4] += record['chunk']
        for word, value in enumerate(record['words']):
            is_result = kind in range(32, 39) and word == RESULT
            columns[5] += put_varint(zigzag(value) if is_result else value)
        tick, addr = record['tick'], record['addr']
    return struct.pack('<6I', *map(len, columns)) + b''.join(columns)


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
        assert pack(unpack(payload, fields[5], fields[7]), fields[7]) == payload
        records = edit(list(unpack(payload, fields[5], fields[7])))
        fields[5], fields[7], fields[8] = len(records), records[0]['tick'], records[-1]['tick']
        payload = pack(records, fields[7])
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
