# SPDX-License-Identifier: MIT
"""What thread caches and fast lists hold while the program runs: of programs that keep still it is what
they put there, block by block, of all threads; of threads that never rest no live block is told, or
nothing. And what the heap keeps for it is said of the moment, not only of the end."""

import subprocess
from collections import Counter
from itertools import combinations

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, existing, ledger_adds_up, run


@pytest.fixture
def victim(victims):
    return existing(victims / 'victim_cached')


class Recording:
    def __init__(self, heapledger, trace, *command, options=()):
        words = [heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', *options, '--', *command]
        self.process = subprocess.Popen([str(word) for word in words], env=CLEAN_ENVIRONMENT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.heapledger, self.trace = heapledger, trace

    def lines(self):
        """Up to the one that says that it is still."""
        while True:
            what, word = self.process.stdout.readline().split()
            if what == 'still':
                return
            yield what, int(word, 16)

    def mark(self, name):
        outcome = run([self.heapledger, 'mark', self.trace, name])
        assert outcome.status == 0, outcome

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(120) == 0
        self.process.stdout.close()


    def blocks_until_its_end(self):
        put = list(self.lines())
        self.end()
        return put


def number(text):
    return int(text, 16)


def follow(heapledger, trace):
    """Each list of what caches held: who told it, its flags, its blocks as (address, chunk, what), the
    bytes of each thread's cache, the blocks that were live then, and whether a phase or a snapshot came
    at once after it."""
    live, lists = set(), []
    outcome = run([heapledger, 'dump', trace])
    assert outcome.status == 0, outcome
    for line in outcome.stdout.decode().splitlines():
        _, _, tid, kind, *words = line.split()
        if kind == 'kept' and words[0].startswith('blocks='):
            lists.append({'tid': tid, 'flags': words[1:], 'live': set(live), 'blocks': [],
                          'caches': Counter(), 'count': int(words[0].split('=')[1]), 'next': None})
        elif kind == 'kept':
            chunk = int(words[1].split('=')[1])
            lists[-1]['blocks'].append((number(words[0]), chunk, words[2]))
            lists[-1]['caches'][words[3] if len(words) > 3 else None] += chunk * (words[2] != 'table')
        elif kind in ('free', 'realloc_begin'):
            live.discard(number(words[0]))
        elif '=' in words and 'recorder' not in line:
            live.add(number(words[words.index('=') + 1]))
        if lists and kind != 'kept' and lists[-1]['next'] is None:
            lists[-1]['next'] = kind
    assert all(len(each['blocks']) == each['count'] for each in lists)
    return lists


def of_phase(data, name):
    return next(m for m in data['moments'] if m['moment'] == 'phase' and m['phase'] == name)


@pytest.mark.parametrize('threads', [1, 4])
def test_at_rest_all_is_told(heapledger, trace, victim, threads):
    """By a mark from outside: exactly the blocks that each thread has put there."""
    recording = Recording(heapledger, trace, victim, 'still', threads)
    put = list(recording.lines())
    recording.mark('rest')
    recording.mark('over')
    recording.end()
    small = {at for what, at in put if what == 'small'}
    large = {at for what, at in put if what == 'large'}
    assert len(small) == 100 * threads and len(large) == 5 * threads
    first, second = [each for each in follow(heapledger, trace) if each['next'] == 'phase']
    assert first['tid'] == second['tid'] == '0'
    assert first['flags'] == second['flags'] == ['all', 'now', f'caches={threads}']
    assert first['blocks'] == second['blocks']
    blocks = first['blocks']
    assert not {at for at, _, _ in blocks} & first['live'] and len(set(blocks)) == len(blocks)
    cached = [(at, chunk, what) for at, chunk, what in blocks if what != 'table']
    assert {at for at, chunk, _ in cached if chunk == 112} == small
    assert {at for at, chunk, _ in cached if chunk > 704} == large
    assert all(what == 'cache' for at, _, what in cached if at in large)
    for thread in range(threads):
        mine = {at for what, at in put[thread * 105:thread * 105 + 100]}
        kinds = [what for at, _, what in cached if at in mine]
        assert kinds.count('cache') == 7 and kinds.count('fast') > 50
    assert sum(what == 'table' for _, _, what in blocks) == threads
    data = analyze(heapledger, trace)
    moment = of_phase(data, 'rest')
    ledger_adds_up(moment)
    assert moment['caches_known'] is True and moment['strays'] == 0
    assert moment['ledger']['cached_bytes'] == sum(chunk for _, chunk, _ in cached)
    assert moment['ledger']['table_bytes'] == sum(c for _, c, what in blocks if what == 'table')
    assert {site['kept'] for site in moment['sites']} >= {'cache', 'fast', 'table'}


@pytest.mark.parametrize('how', ['return', 'exit', 'quick', 'fork'])
def test_the_end_knows_the_caches_of_threads_at_rest(heapledger, trace, victim, how):
    """Eight threads, seven of which rest when the process ends, by whichever thread and in whichever way
    that runs handlers; and its child, which has a copy of all their caches: exactly what each has put
    there, told by the process itself."""
    threads = 8
    put = Recording(heapledger, trace, victim, how, threads, options=['--residency', 'off']
                    ).blocks_until_its_end()
    small = {at for what, at in put if what == 'small'}
    large = {at for what, at in put if what == 'large'}
    assert len(small) == 100 * threads and len(large) == 5 * threads
    lists = follow(heapledger, trace)
    assert len(lists) == (2 if how == 'fork' else 1)
    for told in lists:
        assert told['flags'] == ['all', 'now', f'caches={threads}']
        blocks = told['blocks']
        assert not {at for at, _, _ in blocks} & told['live'] and len(set(blocks)) == len(blocks)
        assert {at for at, chunk, what in blocks if chunk == 112 and what != 'table'} == small
        assert {at for at, chunk, _ in blocks if chunk > 704} == large
        assert sum(what == 'table' for _, _, what in blocks) == threads
        for thread in range(threads):
            mine = {at for what, at in put[thread * 105:thread * 105 + 100]}
            assert [what for at, _, what in blocks if at in mine].count('cache') == 7
    for process in analyze(heapledger, trace)['processes']:
        moment = process['moments'][-1]
        ledger_adds_up(moment)
        assert moment['moment'] == 'end' and moment['caches_known'] is True and moment['strays'] == 0
        assert moment['caches'] == {'total': threads, 'known': threads, 'unread_lists': 0}
        assert moment['ledger']['cached_bytes'] == sum(c for _, c, what in blocks if what != 'table')
        assert moment['ledger']['table_bytes'] == sum(c for _, c, what in blocks if what == 'table')


def test_however_much_several_threads_hold_is_told(heapledger, trace, victim, tmp_path):
    """Beyond some 7,000 blocks memory is borrowed, and given back: two calls of the recorder's."""
    Recording(heapledger, trace, victim, 'many', 2, options=['--residency', 'off']).blocks_until_its_end()
    Recording(heapledger, tmp_path / 'few', victim, 'return', 2, options=['--residency', 'off']
              ).blocks_until_its_end()
    many, few = analyze(heapledger, trace), analyze(heapledger, tmp_path / 'few')
    end = many['moments'][-1]
    assert end['caches_known'] is True and end['strays'] == 0
    assert end['ledger']['cached_bytes'] - few['moments'][-1]['ledger']['cached_bytes'] == pytest.approx(
        50000 * 112, abs=64 * 416)
    told, = follow(heapledger, trace)
    assert not {at for at, _, _ in told['blocks']} & told['live']
    assert many['syscalls']['recorder'] == few['syscalls']['recorder'] + 2


def test_the_end_without_handlers_is_not_known(heapledger, trace, victim):
    Recording(heapledger, trace, victim, '_exit', 4, options=['--residency', 'off']).blocks_until_its_end()
    assert follow(heapledger, trace) == []
    end = analyze(heapledger, trace)['moments'][-1]
    assert end['caches_known'] is False and end['caches'] is None
    assert end['ledger']['cached_bytes'] is None and end['ledger']['table_bytes'] is None


def test_the_last_thread_ends_the_process(heapledger, trace, victim):
    """All caches went back with their threads; what lies in fast lists then is known."""
    put = Recording(heapledger, trace, victim, 'last', 1, options=['--residency', 'off']
                    ).blocks_until_its_end()
    told, = follow(heapledger, trace)
    assert told['flags'] == ['all', 'now', 'caches=0']
    assert {at for at, _, what in told['blocks'] if what == 'fast'} >= {at for _, at in put}
    end = analyze(heapledger, trace)['moments'][-1]
    assert end['caches'] == {'total': 0, 'known': 0, 'unread_lists': 0}
    assert end['ledger']['table_bytes'] == 0


def test_an_end_beside_threads_that_run(heapledger, trace, victim):
    """Four rest, four run on when the process ends: of those that rest all is known, of the others what
    had not changed when it ended, and no live block is told."""
    put = Recording(heapledger, trace, victim, 'mixed', 4, options=['--residency', 'off']
                    ).blocks_until_its_end()
    told, = follow(heapledger, trace)
    blocks = {at for at, _, _ in told['blocks']}
    assert not blocks & told['live'] and 'caches=8' in told['flags']
    assert {at for what, at in put if what == 'large'} <= blocks
    end = analyze(heapledger, trace)['moments'][-1]
    caches, ledger = end['caches'], end['ledger']
    ledger_adds_up(end)
    assert caches['total'] == 8 and 4 <= caches['known'] <= 8 and end['strays'] == 0
    assert end['caches_known'] is (caches['known'] == 8 and caches['unread_lists'] == 0 and
                                   ledger['cached_bytes'] == sum(c for _, c, w in told['blocks']
                                                                 if w != 'table'))
    resting = [c for at, c, _ in told['blocks'] if at in {a for w, a in put if w == 'large'}]
    assert ledger['cached_bytes'] >= sum(resting)


def rows(heapledger, trace, folder):
    assert run([heapledger, 'analyze', '--csv', folder, trace]).status == 0
    head, *lines = (folder / 'fragmentation.csv').read_text().splitlines()
    return [dict(zip(head.split(','), line.split(','))) for line in lines]


def test_a_snapshot_tells_until_the_next_call(heapledger, trace, victim, tmp_path):
    """Rows of the time at rest, from the first snapshot in it, know it; those before do not."""
    recording = Recording(heapledger, trace, victim, 'still', 4, options=['--residency', '20ms'])
    list(recording.lines())
    with pytest.raises(subprocess.TimeoutExpired):
        recording.process.wait(2)
    recording.end()
    lists = [each for each in follow(heapledger, trace) if each['next'] == 'resident_begin']
    whole = [each for each in lists if each['flags'] == ['all', 'now', 'caches=4']]
    assert len(whole) >= 2
    known = [row for row in rows(heapledger, trace, tmp_path / 'csv') if row['cached_bytes'] != '']
    last = whole[-1]['blocks']
    told = set()
    for each in follow(heapledger, trace):
        told.add(each['caches'].total())
        threads = [held for thread, held in each['caches'].items() if thread]
        # Of threads that run on, as when others are made, a cache is not known any more, nor are lists.
        told |= {sum(some) for count in range(len(threads) + 1) for some in combinations(threads, count)}
    assert len(known) > 40 and {int(row['cached_bytes']) for row in known} <= told
    assert sum(int(row['cached_bytes']) == sum(c for _, c, w in last if w != 'table') for row in known) > 40
    for row in known:
        assert int(row['mapped_bytes']) == sum(int(row[name]) for name in (
            'requested_bytes', 'slack_bytes', 'cached_bytes', 'table_bytes', 'partial_bytes',
            'whole_touched_bytes', 'whole_purged_bytes', 'whole_untouched_bytes', 'top_bytes',
            'between_bytes', 'metadata_bytes'))
    resident = next(m for m in analyze(heapledger, trace)['moments'] if m['moment'] == 'resident_peak')
    assert resident['strays'] == 0 and resident['resident']['residual_bytes'] is not None


def test_threads_that_never_rest(heapledger, trace, victim):
    """Some are in the middle of a call, on a processor or off it; some pause."""
    recording = Recording(heapledger, trace, victim, 'wild', 8, options=['--residency', '1ms'])
    list(recording.lines())
    for i in range(40):
        recording.mark(f'phase {i}')
    recording.end()
    lists = [each for each in follow(heapledger, trace) if each['tid'] == '0']
    assert len(lists) >= 40 and any(each['blocks'] for each in lists)
    for each in lists:
        kept = {at for at, _, what in each['blocks']}
        assert len(kept) == len(each['blocks'])
        assert not kept & each['live'], (each['flags'], each['next'])
    data = analyze(heapledger, trace)
    assert all(moment['strays'] == 0 for moment in data['moments'])


def test_what_holds_the_break_is_said_where_a_phase_ends(heapledger, trace, victim):
    """200,000 mixed blocks, all freed, and the heap keeps nearly all for some cached ones: at the mark as
    at the end, and by what malloc_trim would return then."""
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', '--', victim, 'marked',
                   200000])
    assert outcome.status == 0, outcome
    data = analyze(heapledger, trace)
    start, freed, end = of_phase(data, None), of_phase(data, 'first'), data['moments'][-1]
    assert start['caches_known'] is True and freed['caches_known'] is True
    ledger_adds_up(freed)
    assert freed['ledger']['mapped_bytes'] > 600 << 20
    assert freed['ledger']['requested_bytes'] < 2 << 20 < freed['ledger']['whole_pages']['touched_bytes']
    assert freed['trim_bytes'] + freed['trim_top_bytes'] > 600 << 20
    assert {holder['kept'] for holder in freed['break']['holders']} <= {'cache', 'fast', 'lent'}
    assert freed['ledger']['cached_bytes'] > 10000 and end['moment'] == 'end'
    assert end['caches_known'] is True
    lists = [each for each in follow(heapledger, trace) if each['next'] == 'phase']
    assert [each['flags'] for each in lists] == [['all', 'now', 'caches=1']] * 2
    for each, moment in zip(lists, (start, freed)):
        assert not {at for at, _, _ in each['blocks']} & each['live']
        assert moment['ledger']['cached_bytes'] == sum(c for _, c, w in each['blocks'] if w != 'table')
