# SPDX-License-Identifier: MIT
"""Traces made without recording, by tests/unit/tracegen.c: every number in them is known."""

from conftest import analyze, run

# A main heap, a mapped block that is resized and freed, an arena, a trim; threads 7 and 9.
SCRIPT = '''
command program --option
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 2000 1 2 1
call 7 1100 1 0x555555560010 100 112 0 0
call 7 1200 6 0x555555560100 200 208 0 64
call 9 1150 2 0x555555561000 5000 5008 0 0
syscall 7 1300 33 0 135168 3 0x7ffff7fb0000 1500 1 4 3
call 7 1400 1 0x7ffff7fb0010 131072 135168 1 0
call 7 1500 48 0x7ffff7fb0010 0 0 0 0
syscall 7 1510 35 0x7ffff7fb0000 135168 270336 0x7ffff7f00000 900 3 13 3
call 7 1600 3 0x7ffff7f00010 262144 270336 1 0
call 7 1700 9 0x7ffff7f00010 0 0 0 0
syscall 7 1710 34 0x7ffff7f00000 270336 0 0 900 9 12 3
sample 0 1720 1000000 2000000 300000 3500000 200000
call 0 1730 54 0 1730 0 0 0
call 9 1800 9 0x555555561000 0 0 0 0
syscall 7 1810 33 0 134217728 0 0x7ffff0000000 700 1 5 2
syscall 7 1820 37 0x7ffff0000000 135168 3 0 700 1 7 2
call 7 1900 9 0x555555560010 0 0 0 0
syscall 7 2000 32 0x555555581000 0 0x555555562000 0x555555562000 1000 13 11 1
syscall 7 2050 36 0x555555561000 4096 4 0 500 13 11 1
call 7 2100 49 0 1 0 0 0
call 7 2200 55 0 0 0 0 0
close 1 1 0 2300 0
'''

# The child of SCRIPT's fork: frees what its parent made and adds a block of its own.
CHILD = '''
stream 101 2 1 1 2110
call 101 2120 9 0x555555560100 0 0 0 0
call 101 2130 1 0x555555560200 30 48 0 0
close 1 1 4 2300 0
'''


def make_trace(build, folder, script):
    folder.mkdir()
    outcome = run([build / 'tests' / 'unit' / 'tracegen', folder], input=script.encode())
    assert outcome.status == 0, outcome
    return folder


def analysed(heapledger, build, folder, script):
    """The trace of a Script that is in order, and its analysis."""
    trace = make_trace(build, folder, script.text())
    data = analyze(heapledger, trace)
    assert not any(data['anomalies'].values()), data['anomalies']
    return trace, data


BASE = 0x555555600000  # of the break: the start of a huge page
PAGE = 4096
MALLOC, FREE, REALLOC, REALLOC_BEGIN = 1, 9, 3, 48
BRK, MMAP, MUNMAP, MREMAP, MADVISE, MPROTECT = 32, 33, 34, 35, 36, 37
BREAK, ARENA, BLOCK, METADATA = 1, 2, 3, 4


class Script:
    """A trace for tracegen, one process, each record 10 ticks after the one before."""

    def __init__(self):
        self.tick = 1010
        self.lines = ['command program', 'stream 100 1 0 0 1000']

    def add(self, form, *words):
        self.tick += 10
        self.lines.append(' '.join(map(str, [form, *words])))
        return self

    def syscall(self, kind, addr, length, argument, result, region, arena=0, call=MALLOC, reason=2,
                caller=0, tid=7):
        return self.add('syscall', tid, self.tick, kind, addr, length, argument, result, 1, call, reason,
                        region, caller, arena)

    def brk(self, before, after, **words):
        return self.syscall(BRK, before, 0, after, after, BREAK, **words)

    def malloc(self, addr, size, chunk, caller=0x1000, tid=7, flags=0, kind=MALLOC):
        return self.add('call', tid, self.tick, kind, addr, size, chunk, flags, 0, caller)

    def free(self, addr, kind=FREE, tid=7):
        return self.add('call', tid, self.tick, kind, addr, 0, 0, 0, 0, 0)

    def at(self, ns):
        """The next record's time since the start."""
        assert 1000 + ns >= self.tick, (ns, self.tick)
        self.tick = 1000 + ns
        return self

    def kept(self, addr, bytes_, what, tid=7):
        return self.add('call', tid, self.tick, 66, addr, bytes_, what, 0, 0, 0)

    def thread_exit(self, tid):
        return self.add('call', tid, self.tick, 52, 0, 0, 0, 0, 0, 0)

    def sample(self, resident, recorder, tid=0):
        return self.add('sample', tid, self.tick, resident, 0, 0, resident, recorder)

    def phase(self, name):
        self.lines.append(f'command {name}')
        return self.add('phase', 7, self.tick)

    def text(self):
        return '\n'.join([*self.lines, f'close 1 1 0 {self.tick} 0', ''])
