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


def unzigzag(value):
    return value >> 1 if value % 2 == 0 else -(value + 1) // 2


def usual_chunk(kind, addr, size):
    return max(32, (size + 8 + 15) // 16 * 16) if kind <= 8 and addr else 0


class Column:
    def __init__(self, data):
        self.data, self.at = data, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def varint(self):
        first = self.byte()
        if first == 0:
            return int.from_bytes(bytes(self.byte() for _ in range(8)), 'little')
        more = (first & -first).bit_length() - 1
        value = first + sum(self.byte() << 8 * (i + 1) for i in range(more))
        return value >> more + 1

    def zigzag(self):
        return unzigzag(self.varint())

    def chunk(self, usual):
        value = self.varint()
        flags = self.varint() if value & 1 else 0
        return usual + unzigzag(value >> 1) | flags << 56


def decode_block(data, at):
    fields = struct.unpack_from(BLOCK, data, at)
    (magic, header_bytes, compression, _, tid, records, sequence, first, last, raw, stored,
     payload_crc, header_crc) = fields
    assert magic == int.from_bytes(b'HLBK', 'little')
    assert (header_bytes, compression, sequence, raw) == (56, 0, 0, stored)
    assert zlib.crc32(data[at:at + 52] + bytes(4)) == header_crc
    payload = data[at + 56:at + 56 + stored]
    assert zlib.crc32(payload) == payload_crc
    lengths = struct.unpack_from('<5I', payload)
    columns, start = [], 20
    for length in lengths:
        columns.append(Column(payload[start:start + length]))
        start += length
    assert start == raw
    decoder = Decoder(columns, first)
    for _ in range(records):
        yield {'tid': tid} | decoder.record()
    assert decoder.tick == last
    assert all(column.at == len(column.data) for column in columns)


class Decoder:
    def __init__(self, columns, first_tick):
        self.site, self.define, self.size, self.addr, self.other = columns
        self.tick = first_tick
        self.definitions, self.places = [], [0]
        self.other_addr = self.other_caller = 0

    def record(self):
        token = self.site.varint()
        while token == 0:
            record = self.spelled_out()
            if record:
                return record
            token = self.site.varint()
        if token == len(self.definitions) + 1:
            self.definitions.append(self.definition())
        return self.defined(self.definitions[token - 1])

    def definition(self):
        byte = self.define.byte()
        kind, null, varies = byte & 0x3f, byte >> 6 & 1, byte >> 7
        new = {'kind': kind, 'null': null, 'varies': varies, 'alignment': 0}
        if not varies:
            new['size'] = self.define.varint()
            new['chunk'] = 0 if null else self.define.chunk(usual_chunk(kind, 1, new['size']))
        before = self.definitions[-1]['caller'] if self.definitions else 0
        new['caller'] = before + self.define.zigzag()
        if 4 <= kind <= 8:
            new['alignment'] = self.define.varint()
        return new

    def defined(self, definition):
        record = definition | {'tick': self.tick, 'addr': 0}
        if not definition['null']:
            code = self.addr.varint()
            self.places.append(self.places[-1 - (code >> 1)] if code & 1 else
                               self.places[-1] + unzigzag(code >> 1))
            record['addr'] = self.places[-1] * 16
        if definition['varies']:
            size = self.size.varint()
            record['size'] = size >> 1
            record['chunk'] = usual_chunk(record['kind'], record['addr'], size >> 1)
            if size & 1:
                record['chunk'] = self.size.chunk(record['chunk'])
        return record

    def spelled_out(self):
        kind = self.other.byte()
        self.tick += self.other.varint()
        if kind == 62:
            return None
        self.other_addr += self.other.zigzag()
        record = {'tick': self.tick, 'kind': kind, 'addr': self.other_addr}
        if kind < 32 or kind == 48:
            size = self.other.varint()
            chunk = self.other.chunk(usual_chunk(kind, self.other_addr, size))
            self.other_caller += self.other.zigzag()
            return record | {'size': size, 'chunk': chunk, 'caller': self.other_caller,
                             'alignment': self.other.varint()}
        count = 10 if kind in SYSCALLS or kind == 53 else 2
        result = 2 if kind in SYSCALLS else None
        record['words'] = [self.other.zigzag() if i == result else self.other.varint()
                           for i in range(count)]
        return record


def decode(data):
    assert struct.calcsize(HEADER) == 128
    fields = struct.unpack_from(HEADER, data)
    assert fields[0] == b'HLTRACE\n' and fields[1] == 5 and fields[2] == 128
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
                       f'trim_threshold={w[7]} top_pad={w[8]} caller={w[9]:#x} ns={w[3]}')
    if CALLS[kind] == 'free':
        return text + f'free {record["addr"]:#x} caller={record["caller"]:#x}'
    return text + (f'{CALLS[kind]} size={record["size"]} = {record["addr"]:#x} '
                   f'chunk={record["chunk"]} caller={record["caller"]:#x}')


def test_a_second_decoder_reads_the_example():
    fields, records = decode(example())
    lines = [line_of(record, fields[14]) for record in records]
    assert lines == fenced('dump').splitlines()
    assert len(lines) == 4


def test_dump_reads_the_example(heapledger, tmp_path):
    (tmp_path / '1234.1.hlt').write_bytes(example())
    outcome = run([heapledger, 'dump', tmp_path])
    assert outcome.status == 0, outcome
    assert outcome.stdout.decode() == fenced('dump')


def test_the_page_lists_every_kind():
    source = (SOURCE / 'include' / 'heapledger' / 'calls.def').read_text()
    for number, name in re.findall(r'^HL_(?:CALL|SYSCALL|MARK|REASON)\((\d+), (\w+)', source, re.M):
        assert re.search(rf'\b{number} (\| )?{name}\b', PAGE), (number, name)
