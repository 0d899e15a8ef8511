# SPDX-License-Identifier: MIT
"""`free_to_return`, `pins` and the returning system calls of docs/analysis.md once more, from `heapledger
dump` alone and in the plainest way: of every page the blocks that lie on it, and each page of an area
looked at when its highest block changes. Slow, and shares nothing with the analyzer but the documents.
For streams whose process was not forked and was recorded from its start.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from heap_model import (ALLOCATIONS, DONTNEED, FREES, PAGE, SYSCALLS, Block, page_down, page_up, pages_of,
                        parse)

SEGMENT = 64 << 20
ENDS = 'returned', 'reused', 'never'


@dataclass
class Page:
    blocks: list = field(default_factory=list)
    looked_at: int = 0       # its free bytes are accounted for up to then
    state: str = 'unused'    # 'live', 'free', 'back'
    since: int = 0           # free
    site: tuple = None       # of the last block
    size: int = 0
    clear: int = None        # since when no block lies above
    clear_site: tuple = None


@dataclass
class Wait:
    end: str
    bytes: int
    pinned: int
    policy: int
    held: bool
    site: tuple
    size: int
    holder: tuple


def site_of(block):
    return block.caller, block.stack


class Area:
    def __init__(self):
        self.pages = {}    # position -> page
        self.segments = 0

    def top(self):
        return max((at for at, page in self.pages.items() if page.state == 'live'), default=-1)


class Waits:
    """What there is after some of the events, and what has been counted."""

    def __init__(self):
        self.areas = defaultdict(Area)
        self.segments = {}      # 64 MiB of addresses -> (area, which of its segments)
        self.blocks, self.alone, self.freed, self.resized = {}, {}, [], {}
        self.open = set()       # pages of arenas that are accessible
        self.waits = []
        self.pinned = defaultdict(float)
        self.returned = defaultdict(lambda: [0, 0])   # (call, reason, of, site) -> count, bytes

    # ---- where a page is ----

    def place(self, number):
        area, order = self.segments.get(number * PAGE // SEGMENT, (0, None))
        if order is None:
            return self.areas[0], number
        return self.areas[area], order * (SEGMENT // PAGE) + number % (SEGMENT // PAGE)

    def page(self, number):
        area, at = self.place(number)
        return area.pages.setdefault(at, Page())

    def look(self, area, at, before, site):
        """The highest page changed: who is clear, and since when."""
        top = area.top()
        for position, page in area.pages.items() if top != before else ():
            if position <= top:
                page.clear = None
            elif page.clear is None:
                page.clear, page.clear_site = at, site

    # ---- blocks ----

    def settle(self, page, at):
        free = PAGE - sum(end - start for _, start, end in page.blocks)
        if at > page.looked_at:
            for block, _, _ in page.blocks:
                self.pinned[site_of(block)] += free * (at - page.looked_at) / len(page.blocks)
            page.looked_at = at

    def over(self, page, end, at):
        clear = at if page.clear is None else min(max(page.clear, page.since), at)
        self.waits.append(Wait(end, PAGE, clear - page.since, at - clear, page.clear is None, page.site,
                               page.size, page.clear_site if page.clear is not None else None))

    def put(self, block, at):
        self.blocks[block.addr] = block
        for number in pages_of(block.start, block.end):
            page = self.page(number)
            area, _ = self.place(number)
            before = area.top() if page.state != 'live' else None
            self.settle(page, at)
            if page.state == 'free':
                self.over(page, 'reused', at)
            page.looked_at = at
            page.blocks.append((block, max(block.start, number * PAGE),
                                min(block.end, number * PAGE + PAGE)))
            if page.state != 'live':
                page.state = 'live'
                self.look(area, at, before, None)

    def drop(self, block, at):
        for number in pages_of(block.start, block.end):
            page = self.page(number)
            area, _ = self.place(number)
            self.settle(page, at)
            page.blocks = [part for part in page.blocks if part[0] is not block]
            if page.blocks:
                continue
            before = area.top()
            page.state, page.since, page.clear = 'free', at, None
            page.site, page.size = site_of(block), block.size
            self.look(area, at, before, site_of(block))

    def free(self, addr, event):
        """Its pages stay the block's while it is resized."""
        if addr in self.alone:
            block = self.alone.pop(addr)
            self.freed.append((block, event.at))
            return block, None
        block = self.blocks.pop(addr, None)
        if event.kind != 'realloc_begin' and block:
            self.drop(block, event.at)
        return (block, event.at) if block else None

    def resized_goes(self, tid):
        """... or until its thread gives memory back."""
        block, began = self.resized.get(tid) or (None, None)
        if block and began is not None:
            self.drop(block, began)
            self.resized[tid] = block, None

    def made(self, event):
        resized = self.resized.pop(event.tid, None) if event.kind == 'realloc' else None
        old, began = resized or (None, None)
        if old:
            self.freed = [one for one in self.freed if one[0].addr != old.addr]
        if event.result():
            block = Block(event.result(), event.number('size'), event.number('chunk'),
                          caller=event.number('caller'), stack=event.number('stack'))
        elif old and event.number('size'):
            block = old
        else:
            block = None
        if block and ('mmapped' in event.plain or (block is old and old.alone)):
            block.alone = True
            self.alone[block.addr] = block
        elif block:
            if block is old:
                block = Block(old.addr, old.size, old.chunk, caller=old.caller, stack=old.stack)
            self.put(block, event.at)
        if old and began is not None:
            self.drop(old, began)

    # ---- system calls ----

    def back(self, event, start, end, unmapped):
        """Returns how many pages a block had lain on, and how many had gone back before."""
        self.resized_goes(event.tid)
        used = before = 0
        for number in range(page_up(start) // PAGE, page_down(end) // PAGE):
            area, at = self.place(number)
            page = area.pages.get(at)
            if not page:
                continue
            used += page.state in ('live', 'free')
            before += page.state == 'back'
            if page.state == 'free':
                self.over(page, 'returned', event.at)
            if page.state in ('free', 'back'):
                page.state = 'unused' if unmapped else 'back'
        return used, before

    def alone_back(self, event, start, length, bytes_):
        for one in reversed(self.freed):
            block, at = one
            if start <= block.addr < start + length:
                self.waits.append(Wait('returned', bytes_, 0, event.at - at, False, site_of(block),
                                       block.size, None))
                self.freed.remove(one)
                break
        return bytes_

    def opens(self, start, length, arena):
        key = start // SEGMENT
        self.open |= set(pages_of(start, start + length))
        if key not in self.segments:
            area = self.areas[arena + 1]
            self.segments[key] = arena + 1, area.segments
            area.segments += 1

    def unmap_arena(self, event, start, length):
        pages = set(pages_of(start, start + length))
        opened = len(self.open & pages)
        _, before = self.back(event, start, start + length, True)
        self.open -= pages
        for key in range(-(-start // SEGMENT), (start + length) // SEGMENT):
            self.segments.pop(key, None)
        return max(opened - before, 0) * PAGE

    def syscall(self, event):
        """Returns the bytes that went back."""
        kind, region, result = event.kind, event.named.get('region'), event.result()
        start, length = event.number('addr'), event.number('length')
        if kind == 'brk':
            before, to = event.number('from'), event.number('to')
            if not before or to != result or to >= before:
                return 0
            return before - to - self.back(event, to, before, True)[1] * PAGE
        if -4096 < result < 0:
            return 0
        if kind == 'mmap' and region == 'arena' and not event.number('prot'):
            return self.unmap_arena(event, result, length) if self.open & set(
                pages_of(result, result + length)) else 0
        if region == 'arena' and kind in ('mmap', 'mprotect') and event.number('prot'):
            self.opens(result if kind == 'mmap' else start, length, event.number('arena'))
        elif kind == 'munmap' and region == 'arena':
            return self.unmap_arena(event, start, length)
        elif kind == 'munmap' and region == 'break':
            return length - self.back(event, start, start + length, True)[1] * PAGE
        elif kind == 'munmap' and region != 'metadata':
            return self.alone_back(event, start, length, length)
        elif kind == 'mremap' and event.number('new_length') < length:
            return self.alone_back(event, start, length, length - event.number('new_length'))
        elif kind == 'madvise' and event.number('advice') == DONTNEED and region in ('arena', 'break'):
            return self.back(event, start, start + length, False)[0] * PAGE
        return 0

    def apply(self, event):
        kind = event.kind
        if kind in SYSCALLS and event.named.get('region') != 'recorder':
            back = self.syscall(event)
            if back:
                count = self.returned[kind, event.named['reason'], event.named['call'],
                                      event.number('caller'), event.number('stack')]
                count[0] += 1
                count[1] += back
        elif kind in FREES:
            self.free(int(event.plain[0], 0), event)
        elif kind == 'realloc_begin':
            self.resized[event.tid] = self.free(int(event.plain[0], 0), event)
        elif kind in ALLOCATIONS:
            self.made(event)

    def finish(self, at):
        highest = {}
        for block in [*self.blocks.values(), *(old for old, began in filter(None, self.resized.values())
                                               if began is not None)]:
            area, position = self.place((block.end - 1) // PAGE)
            if (position, block.addr) > highest.get(id(area), ((-1, 0), None))[0]:
                highest[id(area)] = (position, block.addr), site_of(block)
        for area in self.areas.values():
            for page in area.pages.values():
                self.settle(page, at)
                if page.state == 'free':
                    self.over(page, 'never', at)
                    if page.clear is None:
                        self.waits[-1].holder = highest[id(area)][1]
        for block, since in self.freed:
            self.waits.append(Wait('never', block.chunk, 0, at - since, False, site_of(block),
                                   block.size, None))


def follow(lines):
    events = [parse(line) for line in lines]
    waits = Waits()
    for event in events:
        waits.apply(event)
    waits.finish(events[-1].at)
    return waits


def seconds(waits, part):
    return sum(wait.bytes * getattr(wait, part) for wait in waits) / 1e9


def bytes_of(waits, end):
    return sum(wait.bytes for wait in waits if wait.end == end)


def row(waits):
    """What docs/analysis.md says of a size or a site but the percentiles."""
    all_ = sum(wait.bytes for wait in waits)
    return {**{f'{end}_page_bytes': bytes_of(waits, end) for end in ENDS},
            'never': bytes_of(waits, 'never') / all_ if all_ else None,
            'pinned_byte_seconds': seconds(waits, 'pinned'),
            'policy_byte_seconds': seconds(waits, 'policy')}


def split(waits):
    clear = [wait for wait in waits if not wait.held]
    held = [wait for wait in waits if wait.held]
    return {
        'pinned': {'cleared_page_bytes': sum(wait.bytes for wait in clear),
                   **{f'{end}_page_bytes': bytes_of(held, end) for end in ENDS},
                   'byte_seconds': seconds(waits, 'pinned')},
        'policy': {**{f'{end}_page_bytes': bytes_of(clear, end) for end in ENDS},
                   'byte_seconds': seconds(waits, 'policy')}}


def sites(waits):
    """site -> the row."""
    found = {}
    for site in {wait.site for wait in waits} | {wait.holder for wait in waits if wait.pinned} - {None}:
        held = [wait for wait in waits if wait.holder == site and wait.pinned]
        found[site] = {**row([wait for wait in waits if wait.site == site]),
                       'held_page_bytes': sum(wait.bytes for wait in held),
                       'held_byte_seconds': seconds(held, 'pinned')}
    return found


def size_limit(size):
    """Four classes for each doubling from 16 bytes on."""
    if size <= 16:
        return 16
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


def sizes(waits):
    limits = sorted({size_limit(wait.size) for wait in waits})
    return [{'up_to_bytes': limit, **row([wait for wait in waits if size_limit(wait.size) == limit])}
            for limit in limits]


GROUPS = 1 << 10, 64 << 10, 1 << 20, None


def group(waits, limit):
    """Those of the sizes up to a limit, from the limit before on; None: all above the last."""
    below = max((other or 0 for other in GROUPS if other and (limit is None or other < limit)), default=-1)
    return [wait for wait in waits if below < wait.size and (limit is None or wait.size <= limit)]


def percentile(waits, part, percent):
    """The least time that so many of the bytes did not exceed."""
    wanted = sum(wait.bytes for wait in waits) * percent / 100
    seen = 0
    for wait in sorted(waits, key=lambda wait: getattr(wait, part)):
        seen += wait.bytes
        if seen >= wanted:
            return getattr(wait, part)
    return None


# ---- cumulative incidence (Aalen and Johansen 1978) --------------------------------------------


def last_of_eighth(ns):
    """The last ns of the eighth of a doubling that it lies in; up to 15 each is one of its own."""
    width = 1 << max(ns.bit_length() - 4, 0)
    return ns // width * width + width - 1


def incidence(outcomes, names):
    """Of (ns, bytes, what), where what is 0 or 1, the events of these names, or None: seen up to then.
    Whoever is in an eighth is at risk in all of it. The end of each doubling in which there is anything -> its
    row."""
    at = defaultdict(lambda: [0, 0, 0])
    for ns, bytes_, what in outcomes:
        at[last_of_eighth(round(ns))][2 if what is None else what] += bytes_
    rows, cumulative, survived = {}, [Fraction(0), Fraction(0)], Fraction(1)
    for end in sorted(at):
        at_risk = sum(sum(ended) for other, ended in at.items() if other >= end)
        cumulative = [share + survived * ended / at_risk for share, ended in zip(cumulative, at[end])]
        survived *= 1 - Fraction(at[end][0] + at[end][1], at_risk)
        assert sum(cumulative) + survived == 1
        limit = (1 << max(end.bit_length(), 3)) - 1
        rows[limit] = {'up_to_ns': limit, 'at_risk_bytes': at_risk - sum(at[end]),
                       **{name: float(share) for name, share in zip(names, cumulative)}}
    return rows


def outcomes(waits, part, scale=1):
    """What can become of freed bytes, and when: of whole waits (None), or of a part of them."""
    what = {'returned': 0, 'reused': 1, 'never': None}
    for wait in waits:
        ns = {None: wait.pinned + wait.policy, 'pinned': wait.pinned, 'policy': wait.policy}[part]
        if part == 'pinned':
            ended = 0 if not wait.held else None if wait.end == 'never' else 1
        else:
            ended = what[wait.end]
        if part != 'policy' or not wait.held:
            yield ns * scale, wait.bytes, ended


def unsure(outcomes, rate):
    """Bytes that lie in another eighth if the times are wrong by this share and by the 1 ns of rounding."""
    return sum(bytes_ for ns, bytes_, _ in outcomes if last_of_eighth(
        round(max(ns * (1 - rate) - 1, 0))) != last_of_eighth(round(ns * (1 + rate) + 1)))


def incidences(waits, scale, rate):
    """`free_to_return` itself (None) and its parts -> their rows, and how many bytes are not sure; with times
    that are to be so much longer, and known but for a share of `rate`, or exactly where there is none."""
    names = {None: ('returned', 'reused'), 'pinned': ('cleared', 'ended'), 'policy': ('returned', 'reused')}
    return {part: (incidence(outcomes(waits, part, scale), names[part]),
                   unsure(outcomes(waits, part, scale), rate) if rate else 0) for part in names}
