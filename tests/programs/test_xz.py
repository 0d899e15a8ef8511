# SPDX-License-Identifier: MIT
"""xz with two threads: large blocks, worker threads, and a round trip."""

import random

SIZE_BYTES = 24 << 20


def content():
    """Compressible, but not trivially; longer than the blocks that -T2 -0 cuts."""
    chance = random.Random(3)
    piece = [chance.randbytes(chance.randint(20, 400)) for _ in range(4096)]
    data = bytearray()
    while len(data) < SIZE_BYTES:
        data += chance.choice(piece)
    return bytes(data[:SIZE_BYTES])


def test_round_trip(preload):
    data = content()
    result = preload.compare(
        ['sh', '-c', 'xz -T2 -1 --block-size=4MiB -k data && xz -T2 -dc data.xz | cmp - data'],
        files=['data.xz'], prepare=lambda folder: (folder / 'data').write_bytes(data),
        least_calls=20)
    assert result.plain.status == 0, result.plain
    assert len(result.plain.files['data.xz']) < SIZE_BYTES
    # Threads of their own ask for blocks far above the threshold.
    assert result.analysis['syscalls']['mmap'] > 0
    assert result.analysis['peak']['requested_bytes'] > 8 << 20


def test_damaged_input(preload):
    result = preload.compare(
        ['xz', '-T2', '-t', 'data.xz'],
        prepare=lambda folder: (folder / 'data.xz').write_bytes(b'\xfd7zXZ\0' + bytes(100)))
    assert result.plain.status == 1
