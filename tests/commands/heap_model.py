# SPDX-License-Identifier: MIT
"""The `moments` of docs/analysis.md once more, from `heapledger dump` alone and in the plainest way: a
dict of blocks, a dict of pages, a list of what is mapped. Slow, and shares nothing with the
analyzer but the documents. For streams whose process was not forked and was recorded from its start.
"""

import bisect
import subprocess
from dataclasses import dataclass

PAGE, HUGE = 4096, 2 << 20
SEGMENT = 64 << 20    # of an arena
SIZES = 64, 512, 4096, 65536, 131072
HEADER = 8            # of a chunk, before the block
FREE_HEAD = 48        # of a free chunk's own, that stays when its pages are given back ...
FREE_FOOT = 8         # ... and this at its end
TOP_LEFT = 25         # of a top that goes back, no less stays
DONTNEED = 4
ALLOCATIONS = {'malloc', 'calloc', 'realloc', 'aligned_alloc', 'memalign', 'posix_memalign', 'valloc',
               'pvalloc'}
FREES = {'free', 'cfree', 'free_sized', 'free_aligned_sized'}
CALLS = ALLOCATIONS | FREES | {'realloc_begin', 'malloc_trim', 'mallopt'}
SYSCALLS = {'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect'}


@dataclass
class Event:
    at: int
    tid: str
    kind: str
    plain: list     # words without a name, the result among them
    named: dict

    def number(self, name, default=0):
        return int(self.named[name], 0) if name in self.named else default

    def result(self):
        return int(self.plain[self.plain.index('=') + 1], 0)


@dataclass
class Block:
    addr: int
    size: int
    chunk: int
    at: int = None
    tid: int = None
    caller: int = 0
    stack: int = 0
    alone: bool = False   # in a mapping of its own
    kept: str = None      # by a cache: of that nothing but addr and chunk is known ...
    of: int = 0           # ... and the thread whose cache it is; 0: any may have changed it
    part: bool = False    # of a cache itself: it holds more than is told

    @property
    def start(self):
        return self.addr - HEADER

    @property
    def end(self):
        return self.start + self.chunk


def nanoseconds(text):
    sign = -1 if text.startswith('-') else 1
    seconds, fraction = text.lstrip('-').split('.')
    return sign * (int(seconds) * 10**9 + int(fraction))


def parse(line):
    if ' phase ' in line:
        head, name = line.split(' phase ', 1)
        _, seconds, tid = head.split(' ')
        return Event(nanoseconds(seconds), tid, 'phase', [], {'name': name})
    words = line.split(' ')
    plain, named = [], {}
    for word in words[4:]:
        name, equals, value = word.partition('=')
        if equals and name:
            named[name] = value
        else:
            plain.append(word)
    return Event(nanoseconds(words[1]), words[2], words[3], plain, named)


def dump(heapledger, trace, stream):
    """The lines of a stream, in the order of the events."""
    output = subprocess.run([heapledger, 'dump', '--stream', stream, trace], check=True,
                            stdout=subprocess.PIPE).stdout
    return output.decode().splitlines()


class Ranges:
    """What is mapped of one kind: ranges that do not touch each other, in address order."""

    def __init__(self):
        self.list = []

    def remove(self, start, end):
        kept = []
        for low, high in self.list:
            kept += [(low, min(high, start))] if low < start else []
            kept += [(max(low, end), high)] if high > end else []
        self.list = kept

    def add(self, start, end):
        if start >= end:
            return
        self.remove(start, end)
        merged = []
        for low, high in sorted(self.list + [(start, end)]):
            if merged and merged[-1][1] == low:
                merged[-1] = merged[-1][0], high
            else:
                merged.append((low, high))
        self.list = merged

    def total(self):
        return sum(high - low for low, high in self.list)


def pages_of(start, end, size=PAGE):
    return range(start // size, (end - 1) // size + 1)


def page_up(address):
    return -(-address // PAGE) * PAGE


def page_down(address):
    return address // PAGE * PAGE


class Heap:
    """What there is after some of the events."""

    def __init__(self):
        self.blocks = {}
        self.mapped = {region: Ranges()
                       for region in ('break', 'instead', 'arena', 'block', 'metadata')}
        self.alone = {}       # blocks with a mapping of their own
        self.resized = {}     # thread -> block that its realloc took away
        self.kept = None      # what the caches hold, and whether that is all
        self.kept_all = False
        self.kept_moment = False   # it holds until the next call, that of a thread until the thread's
        self.kept_by = None        # the thread whose list it is
        self.kept_caches = self.kept_unread = self.kept_left = 0
        self.ran = set()           # threads that have made calls since
        self.page = {}        # page -> 'touched' or 'purged'
        self.segments = {}    # start -> number of the arena; the newest last
        self.snapshot = None  # of resident pages, the last one, also while it is being told
        self.still = None     # what it found, less what went back since; not known without it
        self.sampled = None   # what the kernel counted last as anonymous memory
        self.requested = 0
        self.mapped_bytes = 0

    def put(self, block, alone):
        (self.alone if alone else self.blocks)[block.addr] = block
        block.alone = alone
        self.requested += block.size
        for page in [] if alone else pages_of(block.start, block.end):
            self.page[page] = 'touched'

    def take(self, addr):
        for alone in False, True:
            block = (self.alone if alone else self.blocks).pop(addr, None)
            if block:
                self.requested -= block.size
                return block, alone
        return None

    def forget(self, start, end):
        """These addresses are mapped no more, or anew."""
        for page in pages_of(start, end) if start < end else ():
            self.page.pop(page, None)

    def map(self, region, start, end):
        self.forget(page_up(start), page_down(end))
        self.mapped[region].add(start, end)

    def unmap(self, start, end):
        self.forget(start, end)
        for ranges in self.mapped.values():
            ranges.remove(start, end)

    def segment(self, kind, start, length, event):
        if kind == 'munmap':
            for low in list(self.segments):
                if start <= low and low + SEGMENT <= start + length:
                    del self.segments[low]
        elif kind in ('mmap', 'mprotect') and event.number('prot'):
            self.segments.setdefault(start // SEGMENT * SEGMENT, event.number('arena'))

    def syscall(self, event):
        kind, region, result = event.kind, event.named.get('region'), event.result()
        start, length = event.number('addr'), event.number('length')
        if region == 'recorder':
            return
        if region == 'arena' and result >= 0:
            self.segment(kind, result if kind == 'mmap' else start, length, event)
        if kind == 'brk':
            before, to = event.number('from'), event.number('to')
            if to == result and before < to and before:
                self.map('break', before, to)
            elif to == result and to < before:
                self.unmap(to, before)
        elif result < 0 and result > -4096:
            return
        elif kind == 'mmap':
            if region == 'break':
                region = 'instead'      # of the break, which could not grow
            if region != 'arena' or event.number('prot'):
                self.map(region, result, result + length)
        elif kind == 'munmap':
            self.unmap(start, start + length)
        elif kind == 'mremap':
            self.unmap(start, start + length)
            self.map(region, result, result + event.number('new_length'))
        elif kind == 'mprotect':
            if event.number('prot'):
                self.map(region, start, start + length)
            else:
                self.unmap(start, start + length)
        elif kind == 'madvise' and event.number('advice') == DONTNEED:
            for page in pages_of(start, start + length):
                if page in self.page:
                    self.page[page] = 'purged'
        self.mapped_bytes = sum(ranges.total() for ranges in self.mapped.values())
        if self.still:
            self.still.remove(*self.gone(kind, event))

    def gone(self, kind, event):
        """Of what was in memory before a call that succeeded, what cannot be there after it."""
        start, length, result = event.number('addr'), event.number('length'), event.result()
        if kind == 'brk':
            return result, max(event.number('from'), result)
        if kind == 'mmap' and event.at > self.snapshot['at'] + self.snapshot['took']:
            return result, result + length
        if kind == 'mremap':
            return (min(start + (event.number('new_length') if start == result else 0),
                        start + length), start + length)
        if kind == 'munmap' or kind == 'madvise' and event.number('advice') == DONTNEED:
            return start, start + length
        return 0, 0

    def look(self, event):
        """A snapshot begins, or goes on; it counts when all of it is there."""
        if event.kind == 'resident_begin':
            self.snapshot = {'at': event.at, 'took': event.number('ns'), 'left': event.number('runs'),
                             'cut': 'cut' in event.plain, 'reason': event.named['reason'],
                             'runs': Ranges(), 'tid': event.tid, 'whole': False}
        else:
            start = int(event.plain[0], 0)
            self.snapshot['left'] -= 1
            if not {'swapped', 'zero'} & set(event.plain):
                self.snapshot['runs'].add(start, start + event.number('length'))
        if not self.snapshot['left']:
            self.snapshot.update(whole=True, before=self.sampled, after=None)
            self.still = None
            if not self.snapshot['cut']:
                self.still = Ranges()
                self.still.list = list(self.snapshot['runs'].list)

    def sample(self, event):
        self.sampled = event.number('rss_anon')
        last = self.snapshot
        if last and last['whole'] and last['after'] is None and event.tid == last['tid']:
            last['after'] = self.sampled
            if last['reason'] == 'end':
                last['before'] = self.sampled

    def apply(self, event):
        kind = event.kind
        if kind in CALLS or kind == 'thread_exit' or (
                kind in SYSCALLS and event.named.get('region') != 'recorder'):
            self.ran.add(int(event.tid.split('/')[0]))
        if kind in SYSCALLS:
            self.syscall(event)
        elif kind.startswith('resident_'):
            self.look(event)
        elif kind == 'sample':
            self.sample(event)
        elif kind in FREES:
            self.take(int(event.plain[0], 0))
        elif kind == 'realloc_begin':
            self.resized[event.tid] = self.take(int(event.plain[0], 0))
        elif kind in ALLOCATIONS:
            old = self.resized.pop(event.tid, None) if kind == 'realloc' else None
            if event.result():
                self.put(Block(event.result(), event.number('size'), event.number('chunk'), event.at,
                               int(event.tid.split('/')[0]), event.number('caller'),
                               event.number('stack')), 'mmapped' in event.plain)
            elif old and event.number('size'):
                self.put(*old)
        elif kind == 'kept' and 'blocks' in event.named:
            if 'all' in event.plain or not (self.kept_all and self.kept_whole()):
                self.kept, self.kept_all, self.ran = [], 'all' in event.plain, set()
                self.kept_moment, self.kept_by = 'now' in event.plain, event.tid
                self.kept_left = event.number('blocks')
                self.kept_caches = event.number('caches')
                self.kept_unread = event.number('unread') if 'unread' in event.named else 0
        elif kind == 'kept' and self.kept is not None and self.kept_by == event.tid:
            self.kept_left -= 1
            self.kept.append(Block(
                int(event.plain[0], 0), 0, event.number('chunk'), kept=event.plain[1],
                of=event.number('thread') if 'thread' in event.named else 0,
                part='part' in event.plain))

    def kept_whole(self):
        """Nothing has changed since what caches hold was told."""
        return self.kept is not None and not (self.kept_moment and self.ran)

    def holds(self, block):
        return self.kept_whole() or block.of and block.of not in self.ran

    def kept_known(self):
        return self.kept_whole() or any(self.holds(block) for block in self.kept or [])

    def still_kept(self):
        return [block for block in self.kept or []
                if block.addr not in self.blocks and self.holds(block)]

    def caches(self):
        if not self.kept_known():
            return None
        known = [b for b in self.still_kept() if b.kept == 'table' and not b.part]
        return {'total': self.kept_caches, 'known': len(known), 'unread_lists': self.kept_unread}


@dataclass
class Run:
    start: int
    end: int
    top: bool

    @property
    def bytes(self):
        return self.end - self.start


def find_runs(ranges, blocks, ends_in_top):
    """Free bytes between blocks; and how many blocks lie elsewhere, or over others."""
    runs, good, strays = [], [], 0
    starts = [low for low, _ in ranges]
    inside = {index: [] for index in range(len(ranges))}
    for block in blocks:
        index = bisect.bisect_right(starts, block.start) - 1
        if index < 0 or block.end > ranges[index][1]:
            strays += 1
        else:
            inside[index].append(block)
    for index, (low, high) in enumerate(ranges):
        at = low
        for block in inside[index]:
            if block.start < at:
                strays += 1
                continue
            if block.start > at:
                runs.append(Run(at, block.start, False))
            good.append(block)
            at = block.end
        if at < high:
            runs.append(Run(at, high, ends_in_top(index)))
    return runs, good, strays


def free_space(runs):
    inner = [run.bytes for run in runs if not run.top]
    every = [run.bytes for run in runs]

    def unusable(list_, size):
        return sum(bytes_ for bytes_ in list_ if bytes_ < size) / sum(list_) if list_ else None

    def split(list_, size):
        whole = sum(list_) // size
        return 1 - sum(bytes_ // size for bytes_ in list_) / whole if whole else None

    return {
        'bytes': sum(every), 'runs': len(every), 'largest_bytes': max(every, default=0),
        'largest_without_top_bytes': max(inner, default=0),
        'sizes': [{'size_bytes': size, 'unusable': unusable(every, size),
                   'unusable_without_top': unusable(inner, size), 'split': split(every, size),
                   'split_without_top': split(inner, size)} for size in SIZES]}


def overlaps(pieces, size):
    """page -> bytes of the pieces on it."""
    bytes_on = {}
    for low, high in pieces:
        for page in pages_of(low, high, size) if low < high else ():
            part = min(high, (page + 1) * size) - max(low, page * size)
            bytes_on[page] = bytes_on.get(page, 0) + part
    return bytes_on


def holders_of(blocks, size):
    """page -> the blocks on it."""
    on = {}
    for block in blocks:
        for page in pages_of(block.start, block.end, size):
            on.setdefault(page, []).append(block)
    return on


def page_view(ranges, runs, blocks, size):
    mapped = overlaps(ranges, size)
    free = overlaps([(run.start, run.end) for run in runs], size)
    top = overlaps([(run.start, run.end) for run in runs if run.top], size)
    on = holders_of(blocks, size)
    single = [page for page in on if len(on[page]) == 1]
    return {
        'page_bytes': size, 'used': len(on),
        'half_free': sum(free.get(page, 0) >= size // 2 for page in on),
        'single': len(single),
        'whole': sum(bytes_ == size and page not in on and page not in top
                     for page, bytes_ in mapped.items()),
        'free_bytes': sum(free.get(page, 0) for page in on),
        'single_free_bytes': sum(free.get(page, 0) for page in single)}


def whole_pages(heap, ranges, runs, blocks):
    """(those not in top, those in top), in bytes by what became of them."""
    on = holders_of(blocks, PAGE)
    top = overlaps([(run.start, run.end) for run in runs if run.top], PAGE)
    views = [dict.fromkeys(('touched_bytes', 'purged_bytes', 'untouched_bytes'), 0) for _ in range(2)]
    for page, bytes_ in overlaps(ranges, PAGE).items():
        if page not in on and bytes_ == PAGE:
            views[page in top][heap.page.get(page, 'untouched') + '_bytes'] += bytes_
    return views


def new_site(block):
    none = None if block.kept else block.size
    return {'pinned_bytes': 0.0, 'alone_bytes': 0, 'alone_pages': 0, 'blocks': 0,
            'requested_bytes': 0, 'smallest_bytes': none, 'largest_bytes': none,
            'oldest_at_ns': block.at, 'youngest_at_ns': block.at, 'thread': block.tid,
            'kept': block.kept}


def sites_of(runs, blocks):
    """(kept, caller, stack) -> what its blocks hold."""
    on = holders_of([block for block in blocks if not block.alone], PAGE)
    free = overlaps([(run.start, run.end) for run in runs], PAGE)
    sites = {}
    for block in blocks:
        site = sites.setdefault((block.kept, block.caller, block.stack), new_site(block))
        for page in [] if block.alone else pages_of(block.start, block.end):
            site['pinned_bytes'] += free.get(page, 0) / len(on[page])
            if len(on[page]) == 1:
                site['alone_bytes'] += free.get(page, 0)
                site['alone_pages'] += 1
        site['blocks'] += 1
        if site['thread'] != block.tid:
            site['thread'] = None
        if not block.kept:
            site['requested_bytes'] += block.size
            site['smallest_bytes'] = min(site['smallest_bytes'], block.size)
            site['largest_bytes'] = max(site['largest_bytes'], block.size)
            site['oldest_at_ns'] = min(site['oldest_at_ns'], block.at)
            site['youngest_at_ns'] = max(site['youngest_at_ns'], block.at)
    return sites


def break_view(ranges, runs, blocks):
    """Each of the highest blocks, with all above it gone."""
    if not ranges:
        return {'top_bytes': 0, 'holders': []}
    low, high = ranges[-1]
    here = [block for block in blocks if low <= block.start < high]
    holders = []
    for index in range(len(here) - 1, max(len(here) - 17, -1), -1):
        below = here[index - 1].end if index else low
        block = here[index]
        holders.append(holder(block, max(page_down(high) - page_up(below), 0)))
    return {'top_bytes': sum(run.bytes for run in runs if run.top and run.end == high),
            'holders': holders}


def holder(block, returned):
    return {'returned_bytes': returned, 'address': hex(block.addr),
            'size_bytes': None if block.kept else block.size, 'chunk_bytes': block.chunk,
            'allocated_at_ns': block.at, 'thread': block.tid, 'kept': block.kept}


def arena_view(heap, number, blocks):
    """Its pages in the order in which they would go back, and what block is the next below each."""
    lows = [low for low, arena in heap.segments.items() if arena == number][::-1]
    parts, inside, order = [], [], []
    for low in lows:
        mapped = [(start, min(end, low + SEGMENT)) for start, end in heap.mapped['arena'].list
                  if start <= low < end]
        parts += mapped or [(low, low)]
        here = [block for block in blocks if low <= block.start < low + SEGMENT]
        inside += here
        order += here[::-1]
    taken = overlaps([(block.start, block.end) for block in inside], PAGE)
    pages = [page for start, end in parts for page in reversed(range(start // PAGE, end // PAGE))]
    # The more blocks lie on a page or above, the later it goes.
    at = {low: index for index, low in enumerate(lows)}
    keys = [(at[block.start // SEGMENT * SEGMENT], -(block.end - 1)) for block in order]
    goes = {page: bisect.bisect_right(keys, (at[page * PAGE // SEGMENT * SEGMENT], -page * PAGE)) - 1
            for page in pages}
    holders = [holder(block, PAGE * sum(goes[page] <= index and heap.page.get(page) != 'purged'
                                        for page in pages))
               for index, block in enumerate(order[:4])]
    start, end = parts[0]
    return {'arena': number, 'segments': len(lows), 'mapped_bytes': sum(b - a for a, b in parts),
            'free_bytes': sum(b - a for a, b in parts) - sum(taken.values()),
            'top_bytes': end - max((block.end for block in inside if start <= block.start < end),
                                   default=start),
            'blocks': len(inside), 'holders': holders}


def arenas_view(heap, blocks):
    arenas = [arena_view(heap, number, blocks) for number in set(heap.segments.values())]
    return sorted(arenas, key=lambda arena: (-arena['free_bytes'], arena['arena']))[:64]


def touched(heap, start, end):
    return {page for page in (pages_of(start, end) if start < end else ())
            if heap.page.get(page) == 'touched'}


def trim_pages(heap, runs):
    return set().union(*(touched(heap, page_up(run.start + FREE_HEAD), page_down(run.end - FREE_FOOT))
                         for run in runs if not run.top))


def top_pages(heap, runs):
    return set().union(*(touched(heap, page_up(run.start + TOP_LEFT), page_down(run.end))
                         for run in runs if run.top))


def same_place(block, key):
    return (block.kept, block.caller, block.stack) == key


def add_freed(heap, find, blocks, sites):
    """What more there would be without the blocks of a place, for those that pin the most."""
    stay = [block for block in blocks if block.kept not in ('fast', 'lent')]
    before, _, _ = find(stay)
    most = sorted(sites, key=lambda key: -sites[key]['pinned_bytes'])
    for key in most[:50]:
        runs, _, _ = find([block for block in stay if not same_place(block, key)])
        sites[key]['freed'] = None if sites[key]['kept'] else {
            'mapped_bytes': sum(b.chunk for b in heap.alone.values() if same_place(b, key)),
            'top_bytes': PAGE * len(top_pages(heap, runs) - top_pages(heap, before)),
            'trim_bytes': PAGE * len(trim_pages(heap, runs) - trim_pages(heap, before))}


def held(kept, *names):
    return sum(block.chunk for block in kept if block.kept in names)


def moment(heap):
    """All that docs/analysis.md says of a moment but its name and time."""
    breaks, arenas = heap.mapped['break'].list, heap.mapped['arena'].list
    ranges = sorted(breaks + heap.mapped['instead'].list + arenas)
    last_break = breaks[-1] if breaks else None
    kept, known = heap.still_kept(), heap.kept_known()
    blocks = sorted([*heap.blocks.values(), *kept], key=lambda block: block.addr)
    has_top = [one in arenas or one == last_break for one in ranges]
    find = lambda some: find_runs(ranges, some, has_top.__getitem__)
    runs, good, strays = find(blocks)
    outside, in_top = whole_pages(heap, ranges, runs, good)
    top_bytes = sum(run.bytes for run in runs if run.top)
    live = list(heap.blocks.values()) + list(heap.alone.values())
    pages = page_view(ranges, runs, good, PAGE)
    sites = sites_of(runs, good + list(heap.alone.values()))
    add_freed(heap, find, good, sites)
    return {
        'ledger': {
            'mapped_bytes': heap.mapped_bytes, 'requested_bytes': heap.requested,
            'slack_bytes': sum(block.chunk - block.size for block in live),
            'cached_bytes': sum(b.chunk for b in kept if b.kept != 'table') if known else None,
            'table_bytes': held(kept, 'table') if known else None,
            'partial_bytes': sum(run.bytes for run in runs) - top_bytes - sum(outside.values()),
            'whole_pages': outside, 'top_bytes': top_bytes, 'top_pages': in_top,
            'between_bytes': heap.mapped['block'].total() - sum(block.chunk for block in
                                                                heap.alone.values()),
            'metadata_bytes': heap.mapped['metadata'].total(), 'live_blocks': len(live),
            'break_bytes': heap.mapped['break'].total() + heap.mapped['instead'].total(),
            'arena_bytes': heap.mapped['arena'].total(),
            'block_bytes': heap.mapped['block'].total()},
        'free_space': free_space(runs), 'pages': pages,
        'huge_pages': page_view(ranges, runs, good, HUGE),
        'break': break_view(breaks, runs, good), 'arenas': arenas_view(heap, good),
        'arenas_total': len(set(heap.segments.values())),
        **({} if kept else {'trim_bytes': PAGE * len(trim_pages(heap, runs))}),
        'sites_total': len(sites), 'sites': sites,
        'caches_known': heap.kept_all and heap.kept_left == 0 and heap.kept_whole(), 'caches': heap.caches(),
        'strays': strays}


def largest_snapshot(events):
    """The last event of the whole snapshot of resident pages with the most in memory."""
    most, found, left, total, cut = 0, None, 0, 0, False
    for index, event in enumerate(events):
        if event.kind == 'resident_begin':
            left, total, cut = event.number('runs'), 0, 'cut' in event.plain
        elif event.kind == 'resident_run':
            left -= 1
            total += 0 if {'swapped', 'zero'} & set(event.plain) else event.number('length')
        if event.kind.startswith('resident_') and not left and not cut and total > most:
            most, found = total, index
    return found


def peaks(events):
    """Which event the mapped peak and the resident peak come after."""
    heap, best, most, mapped_at, resident_at = Heap(), (-1, -1), -1, None, None
    for index, event in enumerate(events):
        heap.apply(event)
        now = heap.mapped_bytes, heap.requested
        if now > best:
            best, mapped_at = now, index
        if event.kind == 'sample':
            resident = sum(event.number(name) for name in ('rss_anon', 'rss_file', 'rss_shmem'))
            resident -= event.number('recorder')
            if resident > most:
                most, resident_at = resident, index
    snapshot_at = largest_snapshot(events)
    return mapped_at, resident_at if snapshot_at is None else snapshot_at


def moments(lines):
    """(name, time, number of the phase) -> the moment."""
    events = [parse(line) for line in lines]
    mapped_at, resident_at = peaks(events)
    heap, found, phases = Heap(), [], 0
    for index, event in enumerate(events):
        if event.kind == 'phase':
            found.append({'moment': 'phase', 'at_ns': event.at, **moment(heap)})
        heap.apply(event)
        for name, when in (('resident_peak', resident_at), ('mapped_peak', mapped_at),
                           ('end', len(events) - 1)):
            if index == when:
                found.append({'moment': name, 'at_ns': event.at, **moment(heap)})
    return found


def instants(lines, times):
    """For each of the times, which rise, the moments that it may be: an event of the same nanosecond
    may be before or after it."""
    events, heap, index = [parse(line) for line in lines], Heap(), 0
    for time in times:
        while index < len(events) and events[index].at < time:
            heap.apply(events[index])
            index += 1
        candidates = [moment(heap)]
        while index < len(events) and events[index].at == time:
            heap.apply(events[index])
            candidates.append(moment(heap))
            index += 1
        yield candidates


def in_memory(heap, pages):
    """What of each row of the ledger lies in these ranges."""
    starts = [low for low, _ in pages.list]

    def of(low, high):
        total, index = 0, max(bisect.bisect_right(starts, low) - 1, 0)
        while index < len(pages.list) and pages.list[index][0] < high:
            total += max(min(high, pages.list[index][1]) - max(low, pages.list[index][0]), 0)
            index += 1
        return total

    breaks, arenas = heap.mapped['break'].list, heap.mapped['arena'].list
    ranges = sorted(breaks + heap.mapped['instead'].list + arenas)
    kept = heap.still_kept()
    blocks = sorted([*heap.blocks.values(), *kept], key=lambda block: block.addr)
    runs, good, _ = find_runs(ranges, blocks, lambda index: ranges[index] in arenas
                              or breaks and ranges[index] == breaks[-1])
    live = [block for block in good if not block.kept]
    alone = [of(block.addr, block.addr + block.size) for block in heap.alone.values()]
    asked = [of(block.addr, block.addr + block.size) for block in live]
    rows = {
        'requested_bytes': sum(asked) + sum(alone),
        'slack_bytes': sum(of(b.start, b.end) for b in live) - sum(asked)
                       + sum(of(*r) for r in heap.mapped['block'].list) - sum(alone),
        'cached_bytes': sum(of(b.start, b.end) for b in good if b.kept and b.kept != 'table'),
        'table_bytes': sum(of(b.start, b.end) for b in good if b.kept == 'table'),
        'free_bytes': sum(of(run.start, run.end) for run in runs if not run.top),
        'top_bytes': sum(of(run.start, run.end) for run in runs if run.top),
        'metadata_bytes': sum(of(*r) for r in heap.mapped['metadata'].list)}
    rows['outside_bytes'] = pages.total() - sum(rows.values())
    rows['all_bytes'] = pages.total()
    if not heap.kept_known():
        rows.update(cached_bytes=None, table_bytes=None)
    return rows


def resident(lines, times):
    """The rows of resident.csv: those of snapshots, by their times, with what the kernel counted; and
    for each of the times, which rise, those that it may be, as in `instants`."""
    events, heap, index, snapshots, between = [parse(line) for line in lines], Heap(), 0, {}, []

    def go_on():
        event = events[index]
        heap.apply(event)
        last = heap.snapshot
        if last and last['whole']:
            rows = snapshots.setdefault(last['at'], {})
            if event.kind.startswith('resident_'):
                rows.update(in_memory(heap, last['runs']), reason=last['reason'],
                            cut=int(last['cut']), took_ns=last['took'])
            rows.update(rss_anon_bytes=last['before'], rss_anon_after_bytes=last['after'],
                        residual_bytes=residual(last, rows['all_bytes']))

    def candidate():
        return heap.still and dict(in_memory(heap, heap.still), snapshot_ns=heap.snapshot['at'])

    for time in times:
        while index < len(events) and events[index].at < time:
            go_on()
            index += 1
        between.append([candidate()])
        while index < len(events) and events[index].at == time:
            go_on()
            index += 1
            between[-1].append(candidate())
    while index < len(events):
        go_on()
        index += 1
    return snapshots, between


def residual(snapshot, found):
    counted = [each for each in (snapshot['before'], snapshot['after']) if each is not None]
    if not counted or snapshot['cut']:
        return None
    return min(max(found, min(counted)), max(counted)) - found


def close(a, b):
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1)


def differences(said, model, where=''):
    """Fields in which the analyzer says something else."""
    if isinstance(model, dict):
        return [line for name, value in model.items()
                for line in (differences(said[name], value, f'{where}.{name}') if name in said
                             else [f'{where}.{name}: not there'])]
    if isinstance(model, list):
        if len(said) != len(model):
            return [f'{where}: {len(said)}, not {len(model)} elements']
        return [line for index, value in enumerate(model)
                for line in differences(said[index], value, f'{where}[{index}]')]
    if isinstance(model, float) and isinstance(said, (int, float)):
        return [] if close(said, model) else [f'{where}: {said}, not {model}']
    return [] if said == model else [f'{where}: {said}, not {model}']
