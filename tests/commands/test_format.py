# SPDX-License-Identifier: MIT
"""docs/trace-format.md is right: its example, decoded by a second reader written from the page alone,
says what `heapledger dump` says of the same bytes and what the page prints."""

import re
import struct
import zlib

from conftest import SOURCE, run

PAGE = (SOURCE / 'docs' / 'trace-format.md').read_text()
HEADER = '<8sHHIIBBBBIIIIQQQQQQQQIiIIII'
BLOCK = '<IHBBIIQQQIIII'
SYSCALLS = {32: 'brk', 33: 'mmap', 34: 'munmap', 35: 'mremap', 36: 'madvise', 37: 'mprotect'}
CALLS = {1: 'malloc', 2: 'calloc', 3: 'realloc', 9: 'free'}


def fenced(kind):
    return re.search(f'```{kind}\n(.*?)```', PAGE, re.S).group(1)


def example():
    words = [line.split()[1:] for line in fenced('hex').splitlines()]
    return bytes(int(word, 16) for line in words for word in line)


class Column:
    def __init__(self, data):
        self.data, self.at = data, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    def zigzag(self):
        value = self.varint()
        return value >> 1 if value % 2 == 0 else -(value + 1) // 2


def decode_block(data, at):
    fields = struct.unpack_from(BLOCK, data, at)
    (magic, header_bytes, compression, _, tid, records, sequence, first, last, raw, stored,
     payload_crc, header_crc) = fields
    assert magic == int.from_bytes(b'HLBK', 'little')
    assert (header_bytes, compression, sequence, raw) == (56, 0, 0, stored)
    assert zlib.crc32(data[at:at + 52] + bytes(4)) == header_crc
    payload = data[at + 56:at + 56 + stored]
    assert zlib.crc32(payload) == payload_crc
    lengths = struct.unpack_from('<6I', payload)
    columns, start = [], 24
    for length in lengths:
        columns.append(Column(payload[start:start + length]))
        start += length
    assert start == raw
    kinds, ticks, addresses, sizes, chunks, plain = columns
    tick, address = first, 0
    for _ in range(records):
        kind = kinds.byte()
        bare, kind = kind >> 7, kind & 0x7f
        tick += ticks.varint()
        address += addresses.zigzag()
        record = {'tid': tid, 'tick': tick, 'kind': kind, 'addr': address}
        if kind in SYSCALLS:
            words = [plain.zigzag() if i == 2 else plain.varint() for i in range(10)]
            record['words'] = words
        elif bare:
            record.update(size=0, chunk=0)
        else:
            record['size'] = sizes.varint()
            value = chunks.varint()
            flags, distance = value & 1, value >> 1
            distance = distance >> 1 if distance % 2 == 0 else -(distance + 1) // 2
            record['chunk'] = record['size'] + distance
            assert not flags
        yield record
    assert tick == last
    assert all(column.at == len(column.data) for column in columns)


def decode(data):
    assert struct.calcsize(HEADER) == 128
    fields = struct.unpack_from(HEADER, data)
    assert fields[0] == b'HLTRACE\n' and fields[1] == 1 and fields[2] == 128
    header_bytes, crc, command_bytes = fields[3], fields[-1], fields[-3]
    assert zlib.crc32(data[:124] + bytes(4) + data[128:header_bytes]) == crc
    assert data[128:128 + command_bytes] == b'true\0'
    return fields, list(decode_block(data, header_bytes))


def line_of(record, start):
    ns = record['tick'] - start
    text = f'1234.1 0.{ns:09} {record["tid"]} '
    kind = record['kind']
    if kind in SYSCALLS:
        w = record['words']
        assert (w[5] & 0xff, w[5] >> 8 & 0xff, w[5] >> 16 & 0xff) == (1, 2, 1)
        return text + (f'brk from={record["addr"]:#x} to={w[1]:#x} = {w[2]:#x} reason=grow_top '
                       f'region=break arena=0 call=malloc call_size={w[4]} mmap_threshold={w[6]} '
                       f'trim_threshold={w[7]} top_pad={w[8]} ns={w[3]}')
    if CALLS[kind] == 'free':
        return text + f'free {record["addr"]:#x}'
    return text + (f'{CALLS[kind]} size={record["size"]} = {record["addr"]:#x} '
                   f'chunk={record["chunk"]}')


def test_a_second_decoder_reads_the_example():
    fields, records = decode(example())
    lines = [line_of(record, fields[14]) for record in records]
    assert lines == fenced('dump').splitlines()
    assert len(lines) == 3


def test_dump_reads_the_example(heapledger, tmp_path):
    (tmp_path / '1234.1.hlt').write_bytes(example())
    outcome = run([heapledger, 'dump', tmp_path])
    assert outcome.status == 0, outcome
    assert outcome.stdout.decode() == fenced('dump')


def test_the_page_lists_every_kind():
    source = (SOURCE / 'include' / 'heapledger' / 'calls.def').read_text()
    for number, name in re.findall(r'^HL_(?:CALL|SYSCALL|MARK|REASON)\((\d+), (\w+)', source, re.M):
        assert re.search(rf'\b{number} (\| )?{name}\b', PAGE), (number, name)
