#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The gallery: records four real programs, makes their reports, and of these the images in docs/images
and docs/gallery.md, whose sentences are those of the reports. Called by ./dev gallery with the build
folder and the folder for what is recorded."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy
from PIL import Image

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / 'docs'
STACKS = '16'
LARGEST_IMAGE = 150_000
LINE = 100

C_FUNCTIONS = 400
C_SOURCE = '''#include <stdio.h>
struct s%(n)d { int a, b[%(size)d]; char *name; };
static int f%(n)d(struct s%(n)d *s, int x)
{
	int r = 0;
	for (int i = 0; i < x; i++) {
		r += s->b[i %% %(size)d] * x + %(n)d;
		if (r > x * %(n)d)
			r -= printf("%%d %%s\\n", r, s->name);
		else
			switch (r & 7) {
			case 1: r ^= x; break;
			case 2: r *= 3; break;
			case 5: r += printf("%%d", %(n)d); break;
			default: r++;
			}
	}
	return r;
}
int g%(n)d(struct s%(n)d *s) { return f%(n)d(s, %(n)d) + f%(n)d(s, s->a); }
'''

PYTHON_SOURCE = '''import collections, json, re
table = {}
for n in range(60000):
    table[f'key {n}'] = {'n': n, 'words': ('w%d ' % n) * (n % 20)}
text = json.dumps(table)
back = json.loads(text)
del table
count = collections.Counter(re.findall(r'w[0-9]+', text))
del text
for key in list(back)[::2]:
    del back[key]
'''


def record(heapledger, folder, command, environment=None, **options):
    return subprocess.Popen(
        [heapledger, 'record', '-q', '--force', '--stacks', STACKS, '-o', 'run.hl', '--', *command],
        cwd=folder, env={**os.environ, **(environment or {})}, **options)


def finish(process):
    if process.wait():
        sys.exit(f'gallery: {process.args[-1]} ended with {process.returncode}')


def sqlite(heapledger, folder):
    script = subprocess.run(['/usr/bin/python3', HERE / 'sqlite_script.py'], check=True,
                            stdout=subprocess.PIPE).stdout
    (folder / 'script.sql').write_bytes(script)
    with open(folder / 'script.sql', 'rb') as file:
        finish(record(heapledger, folder, ['sqlite3', ':memory:'], stdin=file,
                      stdout=subprocess.DEVNULL))


def gcc(heapledger, folder):
    (folder / 'big.c').write_text(''.join(
        C_SOURCE % {'n': n, 'size': n % 7 + 1} for n in range(C_FUNCTIONS)))
    finish(record(heapledger, folder, ['gcc', '-O2', '-c', 'big.c', '-o', 'big.o']))


def python(heapledger, folder):
    (folder / 'work.py').write_text(PYTHON_SOURCE)
    finish(record(heapledger, folder, ['python3', 'work.py'], {'PYTHONMALLOC': 'malloc'}))


def redis(heapledger, folder):
    """redis-tools has the very program that redis-server is, under another name."""
    program = shutil.which('redis-server')
    if not program:
        program = './redis-server'
        (folder / program).unlink(missing_ok=True)
        (folder / program).symlink_to('/usr/bin/redis-check-rdb')
    server = record(heapledger, folder, [program, '--port', '0', '--unixsocket', 'redis.sock',
                                         '--save', ''], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / 'redis.sock').exists():
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit('gallery: redis-server did not start')
        time.sleep(0.05)
    quiet = {'cwd': folder, 'check': True, 'stdout': subprocess.DEVNULL}
    subprocess.run(['redis-benchmark', '-s', 'redis.sock', '-q', '-t', 'set,lpush', '-n', '100000',
                    '-r', '20000', '-d', '300'], **quiet)
    subprocess.run(['redis-cli', '-s', 'redis.sock', 'flushall'], **quiet)
    time.sleep(1)  # what is left is to be seen, too
    subprocess.run(['redis-cli', '-s', 'redis.sock', 'shutdown', 'nosave'], cwd=folder, check=False,
                   stdout=subprocess.DEVNULL)
    finish(server)


PROGRAMS = (
    (sqlite, 'sqlite3', 'A database in memory: three tables are filled, indexed, updated, thinned '
                        'out and dropped.'),
    (gcc, 'gcc', f'The compiler on {C_FUNCTIONS} generated pairs of functions, with its children '
                 'cc1 and as.'),
    (python, 'python3', 'Python with PYTHONMALLOC=malloc: a table becomes JSON and a table again, '
                        'its words are counted, and every other entry is deleted.'),
    (redis, 'redis', 'redis-server under redis-benchmark, 100,000 SET and LPUSH each of 300 bytes; '
                     'then everything is flushed, and the server ends.'))


def small(source, target):
    """PNG with a palette, at most 1,200 wide. The palette must not take one colour for another."""
    image = Image.open(source).convert('RGB')
    if image.width > 1200:
        image = image.resize((1200, round(image.height * 1200 / image.width)), Image.LANCZOS)
    packed = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    packed.save(target, optimize=True)
    before, after = (numpy.asarray(each.convert('RGB'), dtype=int) for each in (image, packed))
    if os.path.getsize(target) > LARGEST_IMAGE or before.std() < 5 or abs(before - after).max() > 40:
        sys.exit(f'gallery: {target}: too large, empty, or of other colours')


def screen(page, target, width, height, dark):
    scheme = f'--blink-settings=preferredColorScheme={0 if dark else 1}'
    shot = page.with_suffix('.png')
    subprocess.run(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
                    f'--user-data-dir={page.parent / "browser"}', scheme, f'--screenshot={shot}',
                    f'--window-size={width},{height}', page.as_uri()], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    small(shot, target)


def of(analysis):
    """Whose heap, where there is a choice."""
    processes = analysis['processes']
    main = next(each for each in processes if each['stream'] == analysis['main_stream'])
    return f" by {Path(main['command'][0]).name}, which had the most" if len(processes) > 1 else ''


def section(name, what, analysis, dark):
    findings = '\n'.join(
        textwrap.fill(f'{number}. {finding["sentence"]} '
                      + (f'*{finding["remedy"]}*' if finding['remedy'] else ''), LINE,
                      subsequent_indent='   ')
        for number, finding in enumerate(analysis['findings'], 1))
    end, peak = analysis['end'], analysis['peak']
    told = textwrap.fill(
        f'{what} {analysis["events"]["calls"]:,} allocator calls, {analysis["syscalls"]["total"]:,} '
        f'system calls beneath them; at most {peak["mapped_bytes"]:,} bytes of heap mapped{of(analysis)}, '
        f'{end["mapped_bytes"]:,} at the end.', LINE)
    return (f'## {name}\n\n{told}\n\n{findings or "Nothing to find fault with."}\n\n'
            f'![First screen of the report of {name}, {"dark" if dark else "light"}]'
            f'(images/{name}.png)\n\n'
            f'![The heap of {name} by address over time](images/{name}-map.png)\n\n')


def main():
    build, out = (Path(argument).resolve() for argument in sys.argv[1:3])
    heapledger = build / 'analyzer' / 'heapledger'
    text = f'''# Gallery

Reports of four real programs, as `./dev gallery` makes them: recorded with `--stacks {STACKS}`, the first
screen, the heap by address over time, and what was found. The figures are those of one run; of redis,
the end is another in each, by which block happens to be the highest.

'''
    for number, (run, name, what) in enumerate(PROGRAMS):
        folder, dark = out / name, number % 2 == 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f'== {name}', flush=True)
        run(heapledger, folder)
        page = folder / 'report.html'
        subprocess.run([heapledger, 'analyze', folder / 'run.hl', '--json', folder / 'analysis.json'],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run([heapledger, 'report', folder / 'run.hl', '-o', page, '--png',
                        folder / 'figures'], check=True)
        analysis = json.loads((folder / 'analysis.json').read_text())
        if not analysis['complete']:
            sys.exit(f'gallery: the recording of {name} is not whole')
        screen(page, DOCS / 'images' / f'{name}.png', 1440, 900, dark)
        small(folder / 'figures' / 'map.png', DOCS / 'images' / f'{name}-map.png')
        text += section(name, what, analysis, dark)
    (DOCS / 'gallery.md').write_text(text.rstrip('\n') + '\n')


if __name__ == '__main__':
    main()
