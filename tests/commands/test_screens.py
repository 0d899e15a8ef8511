# SPDX-License-Identifier: MIT
"""The report in a real browser: its first screen fits a screen, nothing scrolls sideways on a telephone,
and both colour schemes are drawn in their own colours. Chromium is not among the packages of ./dev test,
since it is large: ./dev browser installs it and runs these tests."""

import base64
import subprocess
import sys

import pytest

from analysis_fixture import REPORTS, Situation, add_process, end_moment
from browser import MISSING, Browser, chromium
from conftest import run

pytestmark = pytest.mark.skipif(not chromium(), reason=MISSING)
WIDE, NARROW = (1440, 900), (360, 740)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """One with long words, several processes and a table of moments."""
    situation = Situation(tmp_path_factory.mktemp('screens'))
    situation.data['moments'] = [end_moment()]
    situation.data['command'] = ['/opt/' + 'a_long_word_without_a_break' * 4, '--option=' + 'x' * 90]
    add_process(situation.data, '9.2', 9, ['/usr/lib/' + 'child' * 30])
    assert situation.report('-o', 'page.html').status == 0
    return situation.folder / 'page.html'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp('chromium')) as started:
        yield started


@pytest.mark.parametrize('dark', [False, True])
def test_the_first_screen_fits_and_has_the_colours_of_the_scheme(browser, page, dark):
    sys.path.insert(0, str(REPORTS))
    import style
    browser.open(page, *WIDE, dark)
    for part in 'h1', '.verdict', '.lead', '.bar', '.spark', '.glance':
        box = browser.value(f'(b => [b.top, b.bottom, b.width])'
                            f'(document.querySelector("{part}").getBoundingClientRect())')
        assert 0 <= box[0] < box[1] <= WIDE[1] and box[2] > 0, (part, box)
    paper = style.COLOURS['paper'][dark]
    red, green, blue = (int(paper[at:at + 2], 16) for at in (1, 3, 5))
    assert browser.value('getComputedStyle(document.body).backgroundColor') == \
        f'rgb({red}, {green}, {blue})'


@pytest.mark.parametrize('size', [WIDE, NARROW])
def test_nothing_scrolls_sideways_but_what_is_made_to(browser, page, size):
    browser.open(page, *size)
    assert browser.value('document.documentElement.scrollWidth') == size[0]
    # Nor is anything cut off that cannot be scrolled to.
    outside = browser.value(
        'Array.from(document.querySelectorAll("main *")).filter(e => !e.closest(".wide, svg") && '
        f'(e.getBoundingClientRect().right > {size[0]} || e.getBoundingClientRect().left < 0))'
        '.map(e => e.tagName + "." + e.className)')
    assert outside == []


@pytest.fixture(scope='module')
def stacked(heapledger, build, tmp_path_factory):
    """A report of a program whose blocks pin pages, with stacks."""
    folder = tmp_path_factory.mktemp('stacked')
    assert run([heapledger, 'record', '--kernel', 'off', '-q', '--stacks', 8, '-o', folder / 'trace', '--',
                build / 'tests' / 'victims' / 'victim_trimmed', 'checker', 3000]).status == 0
    assert run([heapledger, 'report', folder / 'trace', '-o', folder / 'out.html']).status == 0
    return folder / 'out.html'


def test_stacks_unfold_by_the_keyboard(browser, stacked):
    browser.open(stacked, *WIDE)
    one = 'document.querySelector("table.pins details")'
    assert browser.value(f'{one}.open') is False
    # The tabulator comes to it, in the order of the page.
    browser.value(f'{one}.closest(".wide").focus()')
    for key, code, number in ('Tab', 'Tab', 9), ('Enter', 'Enter', 13):
        for kind in 'keyDown', 'keyUp':
            browser.ask('Input.dispatchKeyEvent', type=kind, key=key, code=code,
                        windowsVirtualKeyCode=number, **({'text': '\r'} if kind == 'keyDown' and number == 13
                                                         else {}))
    assert browser.value(f'document.activeElement === {one}.querySelector("summary")')
    assert browser.value(f'{one}.open') is True
    assert browser.value(f'{one}.querySelector("li").checkVisibility()') is True


def test_a_page_that_is_printed_has_all_stacks(browser, stacked, tmp_path):
    browser.open(stacked, *WIDE)
    stacks = browser.value('Array.from(document.querySelectorAll("table.pins li"), e => e.textContent)')
    assert stacks
    paper = browser.ask('Page.printToPDF')['data']
    (tmp_path / 'page.pdf').write_bytes(base64.b64decode(paper))
    text = subprocess.run(['pdftotext', tmp_path / 'page.pdf', '-'], check=True,
                          stdout=subprocess.PIPE).stdout.decode()
    table = ''.join(text[text.index('Places in the code'):].split())
    assert [frame for frame in stacks if ''.join(frame.split()) not in table] == []
