# SPDX-License-Identifier: MIT
"""What a recorded program counts of itself, by tests/victims/witness.c, held against its trace."""

import mmap
import os
import struct
import subprocess
from dataclasses import dataclass

from conftest import CLEAN_ENVIRONMENT

DESCRIPTOR = 777
SLOTS, KINDS = 4096, 16
SLOT = struct.Struct(f'{1 + 4 * KINDS}Q')
NAMES = {1: 'malloc', 2: 'calloc', 3: 'realloc', 4: 'aligned_alloc', 5: 'memalign',
         6: 'posix_memalign', 7: 'valloc', 8: 'pvalloc', 9: 'free', 10: 'cfree', 11: 'free_sized',
         12: 'free_aligned_sized', 13: 'malloc_trim', 14: 'mallopt'}
CALLS = set(NAMES.values())
# The preloaded library comes before ours only if it is named after `record` has named ours.
LAUNCH = 'LD_PRELOAD=$0:$LD_PRELOAD; export LD_PRELOAD; exec "$@"'


@dataclass
class Counted:
    """One process image: for each kind of call, the least and the most that its trace may have."""

    pid: int
    least: dict
    most: dict
    bytes: dict

    @property
    def doubtful(self):
        return sum(self.most.values()) - sum(self.least.values())


class Witness:
    """The counts of one recording, in a file that outlives all its processes."""

    def __init__(self, preloaded, folder):
        self.preloaded = preloaded
        self.file = open(folder / 'witness', 'w+b')
        self.file.truncate(8 + SLOTS * SLOT.size)
        self.map = mmap.mmap(self.file.fileno(), 0)

    def command(self, *argv):
        return ['/bin/sh', '-c', LAUNCH, self.preloaded, *argv]

    def start(self, heapledger, trace, *argv, options=(), before=(), **more):
        """`record` on argv, below `before`, in a process group of its own."""
        words = [*before, heapledger, 'record', '-o', trace, '--kernel', 'off', *options, '--',
                 *self.command(*argv)]
        os.dup2(self.file.fileno(), DESCRIPTOR, inheritable=True)
        try:
            return subprocess.Popen([str(word) for word in words], env=CLEAN_ENVIRONMENT,
                                    pass_fds=[DESCRIPTOR], start_new_session=True, **more)
        finally:
            os.close(DESCRIPTOR)

    def calls(self):
        """Calls that have returned so far, in all processes."""
        return sum(sum(SLOT.unpack_from(self.map, 8 + i * SLOT.size)[1 + KINDS:1 + 2 * KINDS])
                   for i in range(self.count()))

    def count(self):
        return struct.unpack_from('Q', self.map)[0]

    def images(self):
        for i in range(self.count()):
            pid, *words = SLOT.unpack_from(self.map, 8 + i * SLOT.size)
            begun, done, size, carried = (words[at:at + KINDS] for at in range(0, 64, KINDS))
            if pid:  # 0: it was killed before its first call
                yield Counted(
                    pid, {NAMES[k]: done[k] - carried[k] for k in NAMES},
                    {NAMES[k]: begun[k] + carried[k] for k in NAMES},
                    {NAMES[k]: size[k] for k in NAMES})


def assert_same_calls(witness, analysis, under_way=0, launchers=1, own=0):
    """Every image's calls by kind, and the bytes of those that are certain. under_way: calls of an
    image that may have been interrupted by its end. launchers: images that nobody counted. own: calls
    that an allocator makes of itself, by operators of C++, which are not counted."""
    streams = {}
    for process in sorted(analysis['processes'], key=lambda process: process['serial']):
        streams.setdefault(process['pid'], []).append(process['events'])
    counted = {}
    for image in witness.images():
        counted.setdefault(image.pid, []).append(image)
    assert counted.keys() <= streams.keys(), counted.keys() - streams.keys()
    uncounted = 0
    for pid, events in streams.items():
        images = counted.get(pid, [])
        alone = len(events) - len(images)
        assert alone >= 0, (pid, len(events), len(images))
        uncounted += sum(1 for each in events[:alone] if each['calls'])
        for image, each in zip(images, events[alone:]):
            assert_image(image, each, under_way, own)
    assert uncounted == launchers


def assert_image(image, events, under_way, own):
    assert image.doubtful <= under_way, image
    assert sum(found['count'] for found in events['by_call'].values()) == events['calls']
    assert events['by_call'].keys() <= CALLS
    for name in NAMES.values():
        found = events['by_call'].get(name, {'count': 0, 'bytes': 0})
        least, most = image.least[name], image.most[name]
        most += own
        assert least <= found['count'] <= most, (image.pid, name, least, found['count'], most)
        if least == found['count'] == most and 'free' not in name and name not in ('malloc_trim', 'mallopt'):
            assert found['bytes'] == image.bytes[name], (image.pid, name, found, image.bytes[name])
