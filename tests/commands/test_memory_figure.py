# SPDX-License-Identifier: MIT
"""The figure of memory over time, drawn from tables that are made up: what is stacked when, that a
stack ends where the kernel counts, and that nothing is drawn that was not measured."""

import sys

import numpy
import pytest

from analysis_fixture import DURATION, REPORTS, STREAM, ordinary, tables

sys.path.insert(0, str(REPORTS))
import figure_memory  # noqa: E402
import layers  # noqa: E402
import style  # noqa: E402
from load import Analysis  # noqa: E402

MIB = 1 << 20
ROWS = 'requested', 'slack', 'cached', 'table', 'free', 'top', 'metadata', 'outside'


@pytest.fixture(autouse=True)
def with_style():
    style.setup()


def look(part, **rows):
    """A row of resident.csv, in MiB, when this part of the time has gone."""
    amounts = {f'{name}_bytes': rows.get(name, 0) * MIB for name in ROWS}
    moment = int(part * DURATION)
    return {'stream': STREAM, 'time_ns': moment, 'snapshot_ns': moment, 'reason': 'interval', 'cut': 0,
            **amounts, 'all_bytes': sum(amounts.values())}


def sample(part, anonymous, files=3):
    return {'stream': STREAM, 'time_ns': int(part * DURATION), 'rss_anon_bytes': anonymous * MIB,
            'rss_bytes': (anonymous + files) * MIB}


def situation(rows=(), samples=None, **changes):
    data = {**ordinary(), **changes}
    made = {name: [dict(zip(head, row)) for row in lines]
            for name, (head, lines) in tables(data).items()}
    made['resident'] = list(rows)
    if samples is not None:
        made['samples'] = samples
    return Analysis(data, made)


def ledger_rows():
    """fragmentation.csv, with all that a row of the ledger has."""
    return [{'stream': STREAM, 'time_ns': DURATION * step // 100, 'mapped_bytes': 3 * step * MIB,
             'requested_bytes': 2 * step * MIB, 'partial_bytes': step * MIB,
             **{f'{name}_bytes': 0 for name in ('slack', 'table', 'whole_touched', 'whole_purged',
                                                'whole_untouched', 'top', 'between', 'metadata')},
             'cached_bytes': None} for step in range(1, 101)]


def stack(analysis):
    return layers.layers(analysis, (0, DURATION))


def band(made, name):
    return next((values for _, each, _, values in made.bands if each == name), None)


def column(part):
    return round(part * layers.COLUMNS) - 1


@pytest.fixture
def any_share(monkeypatch):
    """What was in memory is drawn however little of it is known."""
    monkeypatch.setattr(layers, 'UNSEEN', 1)


def test_the_stack_ends_where_the_kernel_counts(any_share):
    rows = [look(0.1, requested=10, outside=2), look(0.5, requested=20, free=8, cached=1, outside=2)]
    samples = [sample(part / 100, 12 + part / 5) for part in range(1, 101)]
    made = stack(situation(rows, samples))
    assert layers.kind(situation(rows, samples)) == 'resident'
    counted = [samples[max(int(edge * 100 / DURATION + 1e-6) - 1, 0)]['rss_bytes']
               for edge in made.edges[1:]]
    assert made.total[3:] == pytest.approx(numpy.array(counted[3:]), rel=1 / 32)
    assert band(made, 'requested')[column(0.05)] == 0            # nobody had looked
    assert band(made, 'requested')[column(0.2)] == 10 * MIB
    assert band(made, 'requested')[column(0.9)] == 20 * MIB
    assert band(made, 'free')[column(0.9)] == 9 * MIB            # with what caches keep
    assert band(made, 'not looked at')[column(0.9)] == pytest.approx((12 + 18 - 31) * MIB, abs=MIB)
    assert band(made, "not the heap's")[column(0.9)] == 2 * MIB
    assert band(made, 'files, shared')[column(0.9)] == 3 * MIB


def test_what_the_kernel_counts_no_more_is_in_no_row(any_share):
    """20 of 30 MiB are gone, and nobody has looked since: of the rest nothing is known."""
    rows = [look(0.1, requested=28, outside=2)]
    samples = [sample(0.05, 30), sample(0.1, 30), sample(0.5, 10), sample(0.9, 29.5)]
    made = stack(situation(rows, samples))
    assert band(made, 'requested')[column(0.3)] == 28 * MIB
    assert band(made, 'requested')[column(0.6)] == 0
    assert band(made, 'not looked at')[column(0.6)] == 10 * MIB
    assert made.total[column(0.6)] == 13 * MIB
    assert band(made, 'requested')[column(1)] == 28 * MIB        # as good as it was


def test_a_snapshot_that_was_cut_is_not_drawn():
    rows = [{**look(0.1, requested=5), 'cut': 1}]
    assert layers.kind(situation(rows, [sample(0.1, 9)])) != 'resident'


@pytest.mark.parametrize('first, found, expected', [
    (0.1, 9, 'resident'), (0.1, 8.5, 'resident'), (0.1, 8, 'mapped'), (0.2, 9, 'mapped')])
def test_without_looks_at_most_of_it_what_is_mapped_is_stacked(first, found, expected):
    """An eighth of what was in memory over time may be unknown."""
    analysis = situation([look(first, requested=found)], [sample(0.05, 9), sample(0.9, 9)])
    analysis.tables['fragmentation'] = ledger_rows()
    assert layers.kind(analysis) == expected
    figure = figure_memory.draw(analysis)
    assert f' {expected}: at most ' in style.titles(figure)
    style.close(figure)
    words = figure_memory.caption(analysis)
    assert ('snapshot' in words) == (expected == 'resident')
    if expected == 'mapped':
        made = stack(analysis)
        ramp = 300 * MIB * (made.edges[1:] / DURATION)
        assert (abs(made.total - ramp) <= 3 * MIB).all()    # a row's worth
        assert made.total[-1] == 300 * MIB and made.largest_at(DURATION) == (
            'requested by the program', 200 * MIB, 300 * MIB)


def test_nothing_is_stacked_of_what_is_not_known():
    analysis = situation()
    assert layers.kind(analysis) == '' and stack(analysis) is None
    assert 'at most 39.3 MiB requested' in style.titles(figure_memory.draw(analysis))
    style.close('all')


def test_each_kind_of_call_has_a_row_with_its_number():
    figure = figure_memory.draw(situation())
    strip = next(axes for axes in figure.axes if axes.get_yticklabels()
                 and axes.get_yticklabels()[0].get_text() == 'brk up')
    assert [label.get_text() for label in strip.get_yticklabels()] == [
        'brk up', 'brk down', 'mmap', 'munmap']
    assert [text.get_text() for text in strip.texts] == [
        '205 calls', '7 calls', '61 calls', '58 calls']
    style.close(figure)


def test_a_heap_far_larger_than_what_is_in_memory_does_not_hide_it():
    """The line leaves the picture, and says so."""
    rows = [look(0.1, requested=5)]
    analysis = situation(rows, [sample(part / 10, 5) for part in range(1, 11)])
    for row in analysis.tables['timeline']:
        row['mapped_bytes'] = row['peak_mapped_bytes'] = 30 << 30
    figure = figure_memory.draw(analysis)
    levels = next(axes for axes in figure.axes if 'resident: at most' in axes.get_title('left'))
    assert levels.get_ylim()[1] < 20
    assert 'mapped 30.0 GiB ↑' in [text.get_text() for text in levels.texts]
    style.close(figure)


@pytest.mark.parametrize('count', [2, 12, 60])
def test_phases_are_named_where_there_is_room(count):
    step = DURATION // count
    names = [None, '$a_b$ \n c', *['x' * 200] * (count - 2)]
    phases = [{'name': name, 'start_ns': number * step, 'end_ns': (number + 1) * step}
              for number, name in enumerate(names)]
    figure = figure_memory.draw(situation(phases=phases))
    figure.canvas.draw()
    band_ = figure.axes[0] if not figure.axes[0].get_title('left') else None
    if count > style.PHASES_MARKED:
        assert band_ is None
    else:
        said = [text.get_text() for text in band_.texts]
        assert len(said) == count and said[0] == '1'
        assert said[1] == ('2 $a_b$ c' if count == 2 else said[1]) and said[1].startswith('2')
        boxes = [text.get_window_extent() for text in band_.texts]
        assert all(one.x1 <= other.x0 for one, other in zip(boxes, boxes[1:]))
    style.close(figure)


@pytest.mark.parametrize('duration', [1, 1000, 10**7, 36_000 * 10**9])
def test_any_duration_and_a_single_event_are_drawn(duration):
    analysis = situation()
    for name in 'timeline', 'samples', 'syscalls', 'fragmentation':
        rows = analysis.tables[name]
        analysis.tables[name] = [{**row, 'time_ns': row['time_ns'] * duration // DURATION}
                                 for row in (rows if duration > 1 else rows[-1:])]
    figure = figure_memory.draw(analysis)
    figure.canvas.draw()
    style.close(figure)
