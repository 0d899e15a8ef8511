# SPDX-License-Identifier: MIT
"""The report for everybody: what is drawn is also said, headings and tables have their structure,
and colours are told from the paper and from each other, by readers who are colour-blind, too. All
is computed from the real palette, the real page.css and the page that a report makes."""

import itertools
import re
import sys
from html.parser import HTMLParser

import numpy
import pytest

from analysis_fixture import DURATION, REPORTS, Situation

sys.path.insert(0, str(REPORTS))
import layers  # noqa: E402
import overview  # noqa: E402
import style  # noqa: E402

LIGHT, DARK = 0, 1

# Linear RGB as who lacks one kind of cones sees it: Machado, Oliveira and Fernandes (2009), severity
# 1. The last is everybody else.
EYES = {
    'protanopia': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    'deuteranopia': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    'tritanopia': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
    'all cones': numpy.eye(3),
}

# Colours that lie beside each other, and so have to be told apart at a glance.
LINES = ['requested', 'mapped', 'resident', 'returned']
ROWS = [colour for colour, *_ in overview.ROWS]
WITHOUT_RARE_ROWS = ['requested', 'slack', 'partial', 'whole', 'free', 'metadata', 'other']
STACK = [colour for colour, *_ in (*layers.RESIDENT, layers.SINCE, layers.OUTSIDE, layers.FILES)]
REASONS = ['grow_top', 'trim_top', 'over_threshold', 'free_mmapped', 'realloc_mremap', 'arena_grow',
           'other']
MAP = ['map_requested', 'map_slack', 'map_cached', 'map_partial', 'map_free', 'map_absent',
       'map_purged', 'map_untouched']
WITHOUT_RARE_STATES = [state for state in MAP if state not in ('map_cached', 'map_absent')]
NEIGHBOURS = [*itertools.combinations(LINES, 2), *itertools.pairwise(ROWS),
              *itertools.pairwise(WITHOUT_RARE_ROWS), *itertools.combinations(REASONS, 2),
              *itertools.pairwise(MAP), *itertools.pairwise(WITHOUT_RARE_STATES),
              *itertools.pairwise(['break', 'arena', 'block', 'metadata']),
              *itertools.pairwise(['returned', 'requested', 'free']), *itertools.pairwise(STACK),
              *itertools.product(STACK[:5], ['since', 'outside']), ('since', 'files')]

# Colours of one figure that need not touch; a key beside them has the same order.
TOGETHER = [*itertools.combinations([*ROWS, 'other'], 2), *itertools.combinations(STACK, 2),
            *itertools.combinations(MAP, 2)]

NOT_GRAPHICS = {'ink', 'quiet', 'paper', 'grid'}  # text, and lines that only help the eye
LEAST_NEIGHBOURS, LEAST_TOGETHER = 16, 8          # CIELAB; 2.3 is just seen side by side


def linear(colour):
    value = numpy.array([int(colour[at:at + 2], 16) for at in (1, 3, 5)]) / 255
    return numpy.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    """CIELAB of linear RGB, D65."""
    to_xyz = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                          [0.0193, 0.1192, 0.9505]])
    part = to_xyz @ numpy.clip(rgb, 0, 1) / to_xyz.sum(axis=1)
    x, y, z = numpy.where(part > 0.008856, numpy.cbrt(part), 7.787 * part + 16 / 116)
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other, eye):
    return float(numpy.linalg.norm(lab(numpy.array(EYES[eye]) @ linear(one))
                                   - lab(numpy.array(EYES[eye]) @ linear(other))))


def tint(name, scheme):
    return style.COLOURS[name][scheme]


def test_the_measures_themselves_are_right():
    assert round(contrast('#000000', '#ffffff'), 2) == 21
    assert round(contrast('#777777', '#ffffff'), 2) == 4.48  # the best known near miss
    assert numpy.allclose(lab(linear('#ff0000')), [53.24, 80.09, 67.20], atol=0.05)
    assert distance('#ff0000', '#ff0000', 'all cones') == 0
    # Red and green of one lightness: far apart for all, near for who lacks a cone.
    assert distance('#c05050', '#6f8a3c', 'all cones') > 50
    assert distance('#c05050', '#6f8a3c', 'deuteranopia') < 20
    for matrix in EYES.values():  # white stays white
        assert numpy.allclose(numpy.sum(matrix, axis=1), 1, atol=1e-5)


def test_no_two_meanings_have_one_light_colour():
    """The figures in the page are re-coloured by value."""
    values = [light for light, _ in style.COLOURS.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize('scheme', [LIGHT, DARK])
def test_graphics_are_told_from_the_paper(scheme):
    paper = tint('paper', scheme)
    low = {name: round(contrast(tint(name, scheme), paper), 2) for name in style.COLOURS
           if name not in NOT_GRAPHICS and contrast(tint(name, scheme), paper) < 3}
    assert not low


def css_rules():
    text = (REPORTS / 'page.css').read_text()
    return re.findall(r'([^{}]+)\{([^{}]*)\}', re.sub(r'@media[^{]*\{', '', text))


@pytest.mark.parametrize('scheme', [LIGHT, DARK])
def test_text_of_the_page_can_be_read(scheme):
    """Each colour that page.css gives to text, on the background of the same rule or the paper."""
    checked = set()
    for _, body in css_rules():
        declared = dict(part.split(':', 1) for part in body.split(';') if ':' in part)
        text = re.fullmatch(r'var\(--(\w+)\)', declared.get('color', ''))
        if not text:
            continue
        behind = re.fullmatch(r'var\(--(\w+)\)', declared.get('background', 'var(--paper)'))
        pair = text.group(1), behind.group(1)
        checked.add(pair)
        assert contrast(*(tint(name, scheme) for name in pair)) >= 4.5, pair
    assert {('ink', 'paper'), ('quiet', 'paper'), ('paper', 'alarm')} <= checked


@pytest.mark.parametrize('scheme', [LIGHT, DARK])
@pytest.mark.parametrize('eye', EYES)
def test_neighbours_are_told_apart_by_all_eyes(scheme, eye):
    for pairs, least in (NEIGHBOURS, LEAST_NEIGHBOURS), (TOGETHER, LEAST_TOGETHER):
        near = {(one, other): round(distance(tint(one, scheme), tint(other, scheme), eye), 1)
                for one, other in pairs
                if distance(tint(one, scheme), tint(other, scheme), eye) < least}
        assert not near


def test_the_palette_that_was_there_before_would_fail():
    """So that the thresholds mean something: yellow on white, green text, grey bars."""
    assert contrast('#e69f00', '#ffffff') < 3 and contrast('#b4c3d1', '#ffffff') < 3
    assert contrast('#009e73', '#ffffff') < 4.5
    assert distance('#d55e00', '#009e73', 'deuteranopia') < distance(
        tint('mapped', LIGHT), tint('resident', LIGHT), 'deuteranopia')


class Structure(HTMLParser):
    """Tags in order, with what they say."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.empty_heads = [], [], 0
        self.heading = self.head = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if re.fullmatch('h[1-6]', tag):
            self.heading = [int(tag[1]), '']
        if tag == 'th':
            self.head = ''

    def handle_endtag(self, tag):
        if re.fullmatch('h[1-6]', tag):
            self.headings.append(tuple(self.heading))
            self.heading = None
        if tag == 'th':
            self.empty_heads += not self.head.strip()
            self.head = None

    def handle_data(self, data):
        if self.heading:
            self.heading[1] += data
        if self.head is not None:
            self.head += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    situation = Situation(tmp_path_factory.mktemp('access'))
    situation.data['findings'] = [
        {'kind': kind, 'bytes': 5 << 20, 'sentence': f'5.00 MiB of {kind}.', 'remedy': None,
         'promised_bytes': None} for kind in ('whole_pages', 'in_use')]
    situation.data['phases'] = [
        {'name': name, 'start_ns': start, 'end_ns': DURATION} for name, start in
        ((None, 0), ('load', DURATION // 2))]
    outcome = situation.report('-o', 'out.html')
    assert outcome.status == 0, outcome
    return Structure((situation.folder / 'out.html').read_text())


def test_the_page_names_its_language_title_and_width(page):
    assert page.all('html') == [{'lang': 'en'}]
    assert len(page.all('title')) >= 1 and len(page.all('main')) == 1
    viewport = next(meta for meta in page.all('meta') if meta.get('name') == 'viewport')
    assert viewport['content'] == 'width=device-width, initial-scale=1'  # may be zoomed


def test_headings_go_down_one_step_at_a_time_and_no_two_are_alike(page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1 and len(levels) > 8
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    texts = [text for level, text in page.headings if level <= 2]
    assert all(text.strip() for text in texts) and len(set(texts)) == len(texts)


def test_what_is_drawn_is_said(page):
    pictures = page.all('svg') + [each for each in page.all('div') if each.get('role') == 'img']
    assert len(pictures) >= 8
    for picture in pictures:
        assert picture.get('role') == 'img' and len(picture.get('aria-label', '')) > 20, picture
    labels = [picture['aria-label'] for picture in pictures]
    assert len(set(labels)) == len(labels)


def test_tables_have_heads_and_what_scrolls_can_be_reached_by_the_keyboard(page):
    assert len(page.all('table')) >= 4 and not page.empty_heads
    assert all(head.get('scope') in ('col', 'row') for head in page.all('th'))
    rows = sum(tag == 'thead' for tag, _ in page.tags)
    assert rows == len(page.all('table'))
    scrolled = [each for each in page.all('div') if 'wide' in each.get('class', '').split()]
    assert scrolled and all(each.get('tabindex') == '0' for each in scrolled)


@pytest.mark.parametrize('pages', [[39, 38], [39] * 4, [0, 1, 20, 39], [0, 0, 1, 1]])
def test_the_number_of_each_pin_is_beside_its_arrow_and_can_be_read(pages):
    from load import Analysis
    import figure_map
    from analysis_fixture import address_map, end_moment, ordinary
    style.setup()
    data, moment = ordinary(), end_moment()
    data['moments'] = [moment]
    moment['break'] = {'top_bytes': 0, 'holders': [
        {'address': hex(0x555555560000 + page * 4096 + 16 * (9 - at)), 'kept': None, 'size_bytes': 8,
         'returned_bytes': 8192 * (at + 1), 'allocated_at_ns': DURATION // 2, 'function': 'fill',
         'file': None, 'line': None} for at, page in enumerate(sorted(pages, reverse=True))]}
    figure = figure_map.draw(Analysis(data, {}, address_map=address_map()))
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [text for text in axes.texts if text.get_text().isdigit()]
    assert [text.get_text() for text in labels] == [str(n + 1) for n in range(len(pages))]
    boxes = [text.get_window_extent() for text in labels]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1  # in the order of the addresses, and none on another
    for box in boxes:
        assert box.x1 < figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1
    arrows = [line for line in axes.lines if line.get_marker() == '<']
    leaders = [line for line in axes.lines if len(line.get_xdata()) == 2
               and line.get_xdata()[1] > 1 and line.get_transform() is arrows[0].get_transform()]
    assert len(arrows) == len(leaders) == len(pages)
    for arrow, leader, box in zip(arrows, leaders, boxes):
        (x, y), (end_x, end_y) = leader.get_transform().transform(leader.get_xydata())
        tip_x, tip_y = arrow.get_transform().transform(arrow.get_xydata())[0]
        assert (x, y) == pytest.approx((tip_x, tip_y))  # from the arrow ...
        assert 0 <= box.x0 - end_x < box.height and box.y0 < end_y < box.y1  # ... to the number
        # No further than the numbers of all the others can push it.
        assert abs(end_y - y) <= len(pages) * 2 * box.height
    style.close(figure)


def test_text_in_figures_is_in_the_colours_of_text():
    """Labels in a line's own colour would be too faint: they stand beside a mark of it."""
    from load import Analysis
    import figure_ledger
    import figure_map
    import figure_memory
    import figure_return
    import figure_sizes
    import figure_syscalls
    from analysis_fixture import address_map, ordinary, tables
    style.setup()
    data = ordinary()
    made = {name: [dict(zip(head, row)) for row in rows]
            for name, (head, rows) in tables(data).items()}
    analysis = Analysis(data, made, address_map=address_map())
    allowed = {tint(name, LIGHT) for name in ('ink', 'quiet')}
    seen = 0
    for module in figure_ledger, figure_map, figure_memory, figure_return, figure_sizes, figure_syscalls:
        figure = module.draw(analysis)
        figure.canvas.draw()
        import matplotlib.colors
        import matplotlib.text
        for text in figure.findobj(matplotlib.text.Text):
            if text.get_text().strip() and text.get_visible():
                seen += 1
                assert matplotlib.colors.to_hex(text.get_color()) in allowed, (module.NAME, text)
        style.close(figure)
    assert seen > 50
