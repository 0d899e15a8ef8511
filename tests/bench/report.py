#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long a report takes, and which part of it: `./dev bench report [--events N] [--live N]`.

Three traces of so many events are made: sqlite3 on the script of the demo, gcc on one large file, both with
call stacks, and a generated one with --live live blocks. Of each the analyzer's part and that of Python are
timed, which makes the page of the analyzer's files. Nothing here is a test: no figure passes or fails.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
sys.path[:0] = [str(SOURCE / 'reports'), str(HERE), str(SOURCE / 'tests' / 'programs')]
sys.dont_write_bytecode = True

import load  # noqa: E402
from analyzer import events_of, measured  # noqa: E402
from test_gcc import large_c_file  # noqa: E402

EVENTS_A_ROW, EVENTS_A_FUNCTION = 62, 4_000  # of the script, and of the file
COLUMNS = '{:10} {:>12} {:>10} {:>10} {:>9} {:>8} {:>9} {:>9}'


def record(heapledger, folder, command, **streams):
    subprocess.run([heapledger, 'record', '-q', '--kernel', 'off', '--stacks', '16', '-o', folder / 'trace',
                    '--', *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, **streams)


def sqlite3(build, folder, options):
    rows = options.events // EVENTS_A_ROW
    maker = [sys.executable, SOURCE / 'examples' / 'sqlite_script.py', '--tables', str(rows // 14_000 + 1),
             '--rows', '14000']
    with subprocess.Popen(maker, stdout=subprocess.PIPE) as script:
        record(build / 'analyzer' / 'heapledger', folder, ['sqlite3', ':memory:'], stdin=script.stdout)


def gcc(build, folder, options):
    (folder / 'large.c').write_text(large_c_file(max(options.events // EVENTS_A_FUNCTION, 1)))
    record(build / 'analyzer' / 'heapledger', folder, ['gcc', '-O2', '-c', 'large.c'],
           stdin=subprocess.DEVNULL)


def generated(build, folder, options):
    (folder / 'trace').mkdir()
    subprocess.run([build / 'tests' / 'unit' / 'tracegen', '--random', str(options.events),
                    str(options.live), '4', folder / 'trace'], check=True)


def page_seconds(trace, files, stacks):
    """From the analyzer's files to HTML, the loading of matplotlib included."""
    started = time.monotonic()
    import content
    import report
    modules = report.figure_modules()
    analysis = load.Analysis(
        load.read_json(files / 'json'), load.read_tables(files / 'csv'), load.read_session(trace),
        load.read_json(files / 'map', load.MAP_SCHEMA), load.read_stacks(stacks))
    report.write_html(analysis, content.sections(analysis, modules), files / 'page.html')
    return time.monotonic() - started


def show(name, build, folder):
    trace, heapledger = folder / 'trace', build / 'analyzer' / 'heapledger'
    files = ['--json', folder / 'json', '--csv', folder / 'csv', '--map', folder / 'map']
    without = measured([heapledger, 'analyze', *files, trace])
    with_profile = measured([heapledger, 'analyze', *files, '--profile', folder / 'profile', trace])
    child = os.fork()  # matplotlib is loaded anew for each
    if not child:
        page = page_seconds(trace, folder, folder / 'profile')
        whole = measured([heapledger, 'report', trace, '-o', folder / 'whole.html'])
        size = os.path.getsize(folder / 'whole.html') / 1024
        print(COLUMNS.format(name, f'{events_of(heapledger, trace):,}', f'{without[1]:.1f}',
                             f'{with_profile[1]:.1f}', f'{with_profile[0]:.1f}', f'{page:.2f}',
                             f'{whole[1]:.1f}', f'{size:.0f}'), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit('report: the page was not made')


def main():
    parser = argparse.ArgumentParser(prog='./dev bench report', description=__doc__.split('\n')[0])
    parser.add_argument('--events', type=int, default=100_000_000)
    parser.add_argument('--live', type=int, default=5_000_000)
    makers = {maker.__name__: maker for maker in (sqlite3, gcc, generated)}
    parser.add_argument('names', metavar='NAME', nargs='*', default=list(makers))
    options = parser.parse_args()
    if not set(options.names) <= set(makers):
        parser.error(f'NAME is one of {", ".join(makers)}')
    build = Path(os.environ['HEAPLEDGER_BUILD'])
    os.environ['HEAPLEDGER_BIN'] = str(build / 'analyzer' / 'heapledger')
    print(f'Linux {platform.release()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seconds')
    print(COLUMNS.format('', 'events', 'analyze', '+profile', 'CPU', 'page', 'report', 'page, KiB'))
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as place:
            makers[name](build, Path(place), options)
            show(name, build, Path(place))


if __name__ == '__main__':
    main()
