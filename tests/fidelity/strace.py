# SPDX-License-Identifier: MIT
"""Counts memory calls for every process image by strace: `strace -c` sums over all processes, and
says neither which program made a call nor how many programs there were."""

import collections
import re
from pathlib import Path

MEMORY = ['brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect']
PROCESS = ['execve', 'clone', 'clone3', 'fork', 'vfork']
LINE = re.compile(r'(\w+)\((.*)')
RESULT = re.compile(r'.*= (-?\d+)')
CLONED = re.compile(r'^(?:clone|clone3|fork|vfork)\(.*= (\d+)', re.MULTILINE)
EXEC = re.compile(r'"(?:[^"]*/)?([^"/]+)", \[([^]]*)\]')
FORKED = ' (forked)'


def command(folder):
    """What stands before the program. One file a thread; long enough strings for the arguments."""
    return ['strace', '-ff', '-qq', '-s', '200', '-e', 'signal=none',
            '-e', 'trace=' + ','.join(MEMORY + PROCESS), '-o', str(Path(folder) / 'trace')]


def is_forked(name):
    return name.endswith(FORKED)


def image_name(arguments):
    """The program; for git, which is many programs, its command too."""
    program, words = EXEC.match(arguments).groups()
    if program != 'git':
        return program
    words = re.findall(r'"([^"]*)"', words)[1:]
    if words[:1] == ['-C']:
        words = words[2:]
    return ' '.join(['git', *[word for word in words if not word.startswith('-')][:1]])


class Image:
    def __init__(self, name):
        self.name, self.calls = name, collections.Counter()


class Reader:
    """Follows one file a thread, from the first one down its clones."""

    def __init__(self, folder):
        self.files = {int(path.suffix[1:]): path for path in Path(folder).iterdir()}
        self.images = []

    def start_image(self, name):
        self.images.append(Image(name))
        return self.images[-1]

    def thread(self, tid, image):
        for line in self.files.pop(tid).read_text().splitlines():
            match = LINE.match(line)
            if not match:
                continue
            name, rest = match.groups()
            if name in MEMORY:
                image.calls[name] += 1
                continue
            result = RESULT.match(rest)
            if not result or int(result[1]) < 0:
                continue
            if name == 'execve':
                image = self.start_image(image_name(rest))
            elif 'CLONE_THREAD' in rest:
                self.thread(int(result[1]), image)
            elif int(result[1]) in self.files:
                forked = image.name.removesuffix(FORKED) + FORKED
                self.thread(int(result[1]), self.start_image(forked))

    def read(self):
        cloned = {int(tid) for path in self.files.values()
                  for tid in CLONED.findall(path.read_text())}
        for tid in sorted(set(self.files) - cloned):
            self.thread(tid, self.start_image('?'))
        return self.images


def images(folder):
    """{name: [Counter of each process]}; forks that made no such call before exec are not."""
    found = collections.defaultdict(list)
    for image in Reader(folder).read():
        if any(image.calls[call] for call in MEMORY):
            found[image.name].append(image.calls)
    return dict(found)
