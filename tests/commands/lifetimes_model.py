# SPDX-License-Identifier: MIT
"""`sizes` and `lifetimes` of docs/analysis.md once more, from `heapledger dump` alone and in the plainest
way: a dict of blocks, a list of lives. Shares nothing with the analyzer but the documents. For streams
whose process was not forked.
"""

from collections import Counter
from dataclasses import dataclass

import heap_model
from heap_model import ALLOCATIONS, FREES, parse
from waits_model import incidence, last_of_eighth, size_limit

SHORT = (1 << 20) - 1   # ns: what is shorter is not told apart
KINDS = 'freed', 'live'


@dataclass
class Block:
    size: int
    chunk: int
    at: int          # of the call that made it ...
    after: int       # ... and bytes allocated by then; None: nobody saw it


@dataclass
class Life:
    size: int
    time: int
    allocated: int
    kind: str


@dataclass
class Resize:
    """Between the two records of a realloc."""
    addr: int
    block: Block     # None: of no block, or of one that nobody saw
    at: int
    allocated: int


class Lives:
    def __init__(self, lines):
        self.blocks, self.resizing, self.allocated = {}, {}, 0
        self.lives, self.before = [], Counter()
        self.requests, self.resizes, self.emptied = [], 0, 0
        events = [parse(line) for line in lines]
        for event in events:
            self.apply(event)
        still = [*self.blocks.values(), *(resize.block for resize in self.resizing.values() if resize.block)]
        self.live = [(block.size, block.chunk) for block in still]
        for block in still:
            self.ends(block, events[-1].at, self.allocated, 'live')

    def ends(self, block, at, allocated, kind):
        if block.after is None:
            self.before[f'{kind}_blocks'] += 1
            self.before[f'{kind}_bytes'] += block.size
        else:
            self.lives.append(Life(block.size, at - block.at, allocated - block.after, kind))

    def apply(self, event):
        if event.kind == 'begin':
            for block in self.blocks.values():
                block.after = None
            self.lives, self.before, self.requests = [], Counter(), []
            self.resizes = self.emptied = 0
        elif event.kind in FREES:
            block = self.blocks.pop(int(event.plain[0], 0), None)
            if block:
                self.ends(block, event.at, self.allocated, 'freed')
        elif event.kind == 'realloc_begin':
            addr = int(event.plain[0], 0)
            self.resizing[event.tid] = Resize(addr, self.blocks.pop(addr, None), event.at, self.allocated)
        elif event.kind in ALLOCATIONS:
            resize = self.resizing.pop(event.tid) if event.kind == 'realloc' else None
            self.made(event, resize if resize and resize.addr else None)

    def made(self, event, resize):
        size, addr = event.number('size'), event.result()
        if addr:
            self.allocated += size
            self.requests.append((size, event.number('chunk')))
            block = Block(size, event.number('chunk'), event.at, self.allocated)
            if resize:
                self.resizes += 1
                block.at = resize.block.at if resize.block else None
                block.after = resize.block.after if resize.block else None
            self.blocks[addr] = block
        elif resize and resize.block and size:
            self.blocks[resize.addr] = resize.block
        elif resize and resize.block:
            self.ends(resize.block, resize.at, resize.allocated, 'freed')
            self.emptied += 1


def doubling(size):
    return max(1 << max(size - 1, 1).bit_length(), 16)


def step(value):
    """The last of its doubling; 0 is one of its own."""
    return (1 << max(value.bit_length(), 3)) - 1 if value else 0


def counts(lives):
    of = {kind: [life for life in lives if life.kind == kind] for kind in KINDS}
    return {**{f'{kind}_blocks': len(of[kind]) for kind in KINDS},
            **{f'{kind}_bytes': sum(life.size for life in of[kind]) for kind in KINDS}}


def percentiles(lived):
    """Of freed blocks: the last of the eighth that so many lie in."""
    if not lived:
        return None
    ends = Counter(min(last_of_eighth(value), max(lived)) for value in lived)
    found = {}
    for percent in 50, 90, 99:
        seen = 0
        for end in sorted(ends):
            seen += ends[end]
            if seen >= len(lived) * percent / 100:
                found[f'p{percent}'] = end
                break
    return {**found, 'max': max(lived)}


def on_clock(lives, clock, unit, scale=lambda value: value):
    """With lives as `scale` has them."""
    lived = {kind: [value_of(life, clock, scale) for life in lives if life.kind == kind] for kind in KINDS}
    steps = {kind: Counter(map(step, lived[kind])) for kind in KINDS}
    return {
        'percentiles': percentiles(lived['freed']),
        'histogram': [{f'up_to_{unit}': end, 'freed_blocks': steps['freed'][end],
                       'live_blocks': steps['live'][end]}
                      for end in sorted(steps['freed'] | steps['live'])],
        'incidence': [{f'up_to_{unit}': end, 'at_risk_blocks': row['at_risk_bytes'], 'freed': row['freed']}
                      for end, row in course((value, kind) for kind in KINDS for value in lived[kind])]}


def course(lived):
    """Of (how long, 'freed' or 'live')."""
    return incidence([(value, 1, 0 if kind == 'freed' else None) for value, kind in lived],
                     ('freed', 'none')).items()


def freed_shares(lived):
    return [(end, row['freed']) for end, row in course(lived)]


def value_of(life, clock, scale):
    return max(scale(life.time), SHORT) if clock == 'time' else life.allocated


def lifetimes(model, scale=lambda value: value):
    """All that the analyzer says but the percentiles of time by size, which are of `by_size`."""
    sizes = sorted({doubling(life.size) for life in model.lives})
    return {
        **counts(model.lives),
        'before': {f'{kind}_{what}': model.before[f'{kind}_{what}']
                   for kind in KINDS for what in ('blocks', 'bytes')},
        'time': on_clock(model.lives, 'time', 'ns', scale),
        'allocated': on_clock(model.lives, 'allocated', 'bytes'),
        'sizes': [{'up_to_bytes': size,
                   **counts([life for life in model.lives if doubling(life.size) == size])}
                  for size in sizes]}


def of_size(model, size, clock, scale=lambda value: value):
    return [value_of(life, clock, scale) for life in model.lives
            if doubling(life.size) == size and life.kind == 'freed']


# ---- sizes -------------------------------------------------------------------------------------


def live_at_peak(lines):
    """(size, chunk) of what was live when the most was mapped."""
    events = [parse(line) for line in lines]
    mapped_at, _ = heap_model.peaks(events)
    heap = heap_model.Heap()
    for event in events[:mapped_at + 1]:
        heap.apply(event)
    return [(block.size, block.chunk) for block in [*heap.blocks.values(), *heap.alone.values()]]


def sizes(model, lines):
    parts = {'': model.requests, 'peak_': live_at_peak(lines), 'live_': model.live}
    limits = sorted({size_limit(size) for blocks in parts.values() for size, _ in blocks})
    rows = []
    for limit in limits:
        row = {'up_to_bytes': limit}
        for name, blocks in parts.items():
            of = [(size, chunk) for size, chunk in blocks if size_limit(size) == limit]
            row |= {f'{name}count': len(of), f'{name}bytes': sum(size for size, _ in of),
                    f'{name}chunk_bytes': sum(chunk for _, chunk in of)}
        rows.append(row)
    return rows
