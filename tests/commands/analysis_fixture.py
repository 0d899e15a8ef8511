# SPDX-License-Identifier: MIT
"""A small analysis as the analyzer writes it (docs/analysis.md), for tests of report and check that
need a situation which is hard to bring about with a real program. A script that stands in for
`heapledger analyze` copies it out; tests change it first. Also: how the scripts are run, alone.
"""

import copy
import csv
import gzip
import json
import os
import sys

from conftest import SOURCE, run

REPORTS = SOURCE / 'reports'

STREAM = '4711.1'
DURATION = 2_000_000_000


def ledger(requested, slack, free, metadata, block, blocks):
    mapped = requested + slack + free + metadata
    return {
        'requested_bytes': requested, 'live_blocks': blocks, 'slack_bytes': slack,
        'free_bytes': free, 'mapped_bytes': mapped, 'break_bytes': mapped - block - metadata,
        'arena_bytes': 0, 'block_bytes': block, 'metadata_bytes': metadata, 'reserved_bytes': 0,
        'rss_bytes': mapped + 3_000_000,
    }


def cause(syscall, reason, text, call, count, failed=0):
    return {'syscall': syscall, 'reason': reason, 'reason_text': text, 'call': call,
            'count': count, 'bytes': count * 135168, 'time_ns': count * 3000, 'failed': failed}


def causes(grow=205, trim=7, maps=61, unmaps=58):
    return sorted([
        cause('brk', 'grow_top', 'no free block fits: grow the break', 'malloc', grow),
        cause('mmap', 'over_threshold', 'request at or over mmap_threshold', 'malloc', maps),
        cause('munmap', 'free_mmapped', 'a mapped block was freed', 'free', unmaps),
        cause('brk', 'trim_top', 'free top reached trim_threshold', 'free', trim),
    ], key=lambda row: -row['count'])


def set_causes(data, rows):
    """Counts follow from the rows, as they do in the analyzer."""
    syscalls = {name: 0 for name in ('brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect')}
    for row in rows:
        syscalls[row['syscall']] += row['count']
    total = sum(syscalls.values())
    data['syscalls'] = {**syscalls, 'total': total, 'recorder': 6, 'by_cause': rows,
                        'time_ns': sum(row['time_ns'] for row in rows)}
    data['events']['syscalls'] = total
    data['events']['total'] = data['events']['calls'] + total


def ordinary():
    """A program that grows, frees nearly all at the end and gets little free memory left."""
    peak = ledger(41_200_000, 3_100_000, 1_900_000, 140_000, 4_300_000, 210_443)
    data = {
        'schema': 'heapledger-analysis/1', 'version': '0.1.0', 'mode': 'allocator',
        'policy': 'hybrid', 'model': 'glibc 2.36', 'command': ['demo', 'a <b> & "c"'],
        'complete': True, 'main_stream': STREAM, 'duration_ns': DURATION,
        'exit': {'status': 0},
        'events': {'calls': 2_104_332, 'lost': 0, 'by_call': {
            'malloc': {'count': 1_052_166, 'failed': 0, 'bytes': 812_000_000},
            'free': {'count': 1_052_166, 'failed': 0, 'bytes': 811_000_000}}},
        'peak': {'requested_bytes': 41_200_000, 'requested_at_ns': 1_400_000_000,
                 'mapped_bytes': peak['mapped_bytes'], 'mapped_at_ns': 1_420_000_000,
                 'rss_bytes': 51_208_192, 'rss_at_ns': 1_430_000_000, 'live_blocks': 210_443,
                 'stream': STREAM, 'at_mapped': peak},
        'end': ledger(1_310_000, 120_000, 300_000, 140_000, 0, 2_043),
        'returned_bytes': 88_000_000,
        'returned': {'break_bytes': 60_000_000, 'arena_bytes': 0, 'block_bytes': 28_000_000},
        'fragmentation': {'mapped': {'mean': 21.4, 'at_peak_live': 11.2, 'at_peak_mapped': 12.5,
                                     'peaks': 12.4}, 'resident': None},
        'free_to_return': {
            'returned_page_bytes': 60_002_304, 'reused_page_bytes': 30_003_200,
            'never_page_bytes': 303_104,
            'latency_ns': {'p50': 16_000_000, 'p90': 80_000_000, 'p99': 400_000_000,
                           'max': 900_000_000},
            'histogram': [{'up_to_ns': 16_777_216, 'bytes': 40_001_536},
                          {'up_to_ns': 1_073_741_824, 'bytes': 20_000_768}],
            'incidence': [{'up_to_ns': 16_777_215, 'at_risk_bytes': 35_303_936, 'returned': 0.443,
                           'reused': 0.166},
                          {'up_to_ns': 1_073_741_823, 'at_risk_bytes': 303_104, 'returned': 0.664,
                           'reused': 0.332}],
            'sizes': [
                {'up_to_bytes': 20, 'returned_page_bytes': 0, 'reused_page_bytes': 3_200,
                 'never_page_bytes': 0},
                {'up_to_bytes': 32, 'returned_page_bytes': 2_304, 'reused_page_bytes': 0,
                 'never_page_bytes': 303_104},
                {'up_to_bytes': 40, 'returned_page_bytes': 0, 'reused_page_bytes': 0,
                 'never_page_bytes': 0},
                {'up_to_bytes': 1 << 20, 'returned_page_bytes': 60_000_000,
                 'reused_page_bytes': 30_000_000, 'never_page_bytes': 0}],
            'size_groups': [
                {'up_to_bytes': 1024, 'returned_page_bytes': 2_304, 'reused_page_bytes': 3_200,
                 'never_page_bytes': 303_104, 'incidence': [
                     {'up_to_ns': 16_777_215, 'at_risk_bytes': 303_104, 'returned': 0.007, 'reused': 0.01}]},
                {'up_to_bytes': 1 << 20, 'returned_page_bytes': 60_000_000, 'reused_page_bytes': 30_000_000,
                 'never_page_bytes': 0, 'incidence': [
                     {'up_to_ns': 16_777_215, 'at_risk_bytes': 35_000_000, 'returned': 0.44, 'reused': 0.17},
                     {'up_to_ns': 1_073_741_823, 'at_risk_bytes': 0, 'returned': 0.667, 'reused': 0.333}]}]},
        'sizes': [size_row(20, 600_000, 10_000_000, 19_200_000, 0.5),
                  size_row(32, 400_000, 12_000_000, 16_000_000, 0.5),
                  size_row(1 << 20, 1_000, 800_000_000, 804_000_000, 0.04)],
        'lifetimes': {
            'freed_blocks': 999_000, 'freed_bytes': 820_000_000, 'live_blocks': 2_000, 'live_bytes': 1_310_000,
            'before': {'freed_blocks': 0, 'freed_bytes': 0, 'live_blocks': 0, 'live_bytes': 0},
            'time': {'percentiles': {'p50': 1_048_575, 'p90': 3_000_000, 'p99': 12_000_000, 'max': 900_000_000},
                     'histogram': [], 'incidence': []},
            'allocated': {'percentiles': {'p50': 319, 'p90': 50_000, 'p99': 8_000_000, 'max': 90_000_000},
                          'histogram': [],
                          'incidence': [{'up_to_bytes': 511, 'at_risk_blocks': 401_000, 'freed': 0.6},
                                        {'up_to_bytes': 134_217_727, 'at_risk_blocks': 0, 'freed': 0.998}]},
            'sizes': [{'up_to_bytes': 32}, {'up_to_bytes': 1 << 20}]},
        'returning': {'total': 1, 'calls': [
            {'syscall': 'munmap', 'reason': 'free_mmapped', 'reason_text': 'a mapped block was freed',
             'call': 'free', 'count': 40, 'returned_bytes': 60_002_304, 'time_ns': 493_000,
             'kept': None, 'caller': '0x401234', 'stack': None, 'function': 'drop', 'file': 'table.c',
             'line': 12, 'module': '/usr/bin/program', 'offset': None}]},
        'recorder': {'peak_rss_bytes': 2_097_152, 'trace_bytes': 8_300_112,
                     'bytes_per_event': 3.94},
        'anomalies': {'unknown_frees': 0, 'order_violations': 0},
    }
    set_causes(data, causes())
    add_process(data, STREAM, 4711, data['command'])
    return data


def size_row(up_to, count, bytes_, chunk_bytes, at_peak):
    parts = dict(zip(('count', 'bytes', 'chunk_bytes'), (count, bytes_, chunk_bytes)))
    return {'up_to_bytes': up_to, **parts,
            **{f'peak_{name}': int(value * at_peak) for name, value in parts.items()},
            **{f'live_{name}': value // 500 for name, value in parts.items()}}


def add_process(data, stream, pid, command):
    figures = {key: copy.deepcopy(data[key]) for key in ('events', 'syscalls', 'peak', 'end')}
    data.setdefault('processes', []).append({
        'stream': stream, 'pid': pid, 'ppid': 1, 'serial': len(data['processes']) + 1,
        'parent_serial': 0, 'command': command, 'start_ns': 0, 'end_ns': DURATION,
        'complete': True, 'exit': {'status': 0}, **figures})


def tables(data, with_samples=True):
    """CSV files that go with the analysis: a ramp up to the peak and down to the end."""
    timeline, samples, syscalls = [], [], []
    for step in range(1, 101):
        high = data['peak']['at_mapped'] if step <= 70 else None
        high = high or data['end']
        part = step / 70 if step <= 70 else 1
        requested, mapped = int(high['requested_bytes'] * part), int(high['mapped_bytes'] * part)
        moment = DURATION * step // 100
        timeline.append([STREAM, moment, requested, requested, mapped, mapped, 0, 0,
                         mapped - requested, data['returned_bytes'] * step // 100
                         if data['returned_bytes'] else 0, 1, requested, mapped])
        if with_samples:
            samples.append([STREAM, moment, mapped + 3_000_000, mapped, 3_000_000, 0, 0,
                            51_208_192, 0, step, 0])
    for row in data['syscalls']['by_cause']:
        syscalls.append([STREAM, DURATION // 2, row['syscall'], row['reason'], row['call'],
                         row['count'], row['bytes'], row['time_ns']])
    return {
        'timeline': (['stream', 'time_ns', 'requested_bytes', 'chunk_bytes', 'mapped_bytes',
                      'break_bytes', 'arena_bytes', 'block_bytes', 'free_bytes', 'returned_bytes',
                      'live_blocks', 'peak_requested_bytes', 'peak_mapped_bytes'], timeline),
        'samples': (['stream', 'time_ns', 'rss_bytes', 'rss_anon_bytes', 'rss_file_bytes',
                     'rss_shmem_bytes', 'swap_bytes', 'rss_peak_bytes', 'recorder_bytes',
                     'minor_faults', 'major_faults'], samples),
        'fragmentation': fragmentation_rows(data),
        'lifetimes': (['stream', 'clock', 'up_to_bytes', 'lived_up_to', 'freed_blocks', 'live_blocks'], [
            [STREAM, 'time', 32, 1_048_575, 998_000, 2_000], [STREAM, 'allocated', 32, 0, 400_000, 0],
            [STREAM, 'allocated', 32, 511, 598_000, 2_000],
            [STREAM, 'allocated', 1 << 20, 134_217_727, 1_000, 0]]),
        'syscalls': (['stream', 'time_ns', 'syscall', 'reason', 'call', 'count', 'bytes',
                      'duration_ns'], syscalls),
    }


def fragmentation_rows(data):
    """The free bytes of the timeline: a part on used pages, the rest whole pages and the top."""
    names = ['stream', 'time_ns', 'mapped_bytes', 'partial_bytes', 'whole_touched_bytes',
             'whole_purged_bytes', 'whole_untouched_bytes', 'top_bytes', 'free_bytes',
             'unusable_4096', 'unusable_65536', 'unusable_131072']
    rows = []
    for step in range(1, 101):
        high = data['peak']['at_mapped'] if step <= 70 else None
        free = (high or data['end'])['free_bytes'] * min(step, 70) // 70
        partial, top = free // 3, free // 10
        rows.append([STREAM, DURATION * step // 100, free * 4, partial, free - partial - top, 0, 0,
                     top, free, *(['', '', ''] if not free else [0.2, 3.5e-05, 1])])
    return names, rows


def end_moment():
    """What caches held is not known, so it counts as free."""
    return {'moment': 'end', 'phase': None, 'at_ns': 2_000_000_000, 'trim_bytes': 8192,
            'trim_top_bytes': 0, 'ledger': {
                'mapped_bytes': 1_870_000, 'requested_bytes': 1_310_000, 'slack_bytes': 120_000,
                'cached_bytes': None, 'table_bytes': None, 'partial_bytes': 150_000,
                'whole_pages': {'touched_bytes': 40_000, 'purged_bytes': 0, 'untouched_bytes': 0},
                'top_bytes': 110_000, 'between_bytes': 0, 'metadata_bytes': 140_000,
                'live_blocks': 2043},
            'caches_known': False, 'resident': None, 'free_space': {'sizes': []}}


def moments():
    """Of the fields, those that the report reads."""
    def moment(name, residual, splits):
        return {**end_moment(), 'moment': name, 'at_ns': DURATION,
                'resident': {'all_bytes': 40_000_000, 'residual_bytes': residual},
                'free_space': {'sizes': [
                    {'size_bytes': size, 'split': split, 'split_without_top': without}
                    for size, split, without in zip((64, 512, 4096, 65536, 131072), *splits)]}}

    return [moment('mapped_peak', None, ([0, .1, .2, .5, None], [0, .1, .3, 1, None])),
            moment('resident_peak', 0, ([None] * 5, [None] * 5)),
            moment('end', 4096, ([0, .02, .1, .125, .25], [0, .02, .1, None, None]))]


def address_map(columns=60, rows=40, row_bytes=4096):
    """A break that fills up, is freed from below, and has a block at its top."""
    def cell(row, column):
        reached = min(rows, 1 + column)
        if row >= reached:
            return [0] * 8
        if column < 40 or row == rows - 1:
            return [3800, 100, 0, row_bytes - 3900, 0, 0, 0, 0]
        return [0, 0, 0, 0, 0, 0, row_bytes, 0] if row < 10 else [0, 0, 0, 0, row_bytes, 0, 0, 0]

    return {'schema': 'heapledger-map/1', 'stream': STREAM, 'start_ns': 0, 'end_ns': DURATION,
            'columns': columns, 'beyond_bytes': 0, 'snapshots_ns': [None] * columns,
            'states': ['requested', 'slack', 'cached', 'partial', 'free', 'absent', 'purged', 'untouched'],
            'regions': [{'kind': 'break', 'start': '0x555555560000', 'row_bytes': row_bytes,
                         'rows': [[value for column in range(columns)
                                   for value in (1, *cell(row, column))]
                                  for row in range(rows)]}]}


class Situation:
    """A trace directory with a made-up analysis behind it."""

    def __init__(self, folder):
        self.folder = folder
        self.trace = folder / 'trace'
        self.trace.mkdir()
        self.data = ordinary()
        self.with_samples = True
        self.map = address_map()
        self.analyzer_status = 0

    def _write(self):
        source = self.folder / 'analysis'
        source.mkdir(exist_ok=True)
        (source / 'analysis.json').write_text(json.dumps(self.data))
        (source / 'map.json').write_text(json.dumps(self.map))
        (source / 'none.pb.gz').write_bytes(gzip.compress(b''))
        for name, (head, rows) in tables(self.data, self.with_samples).items():
            with open(source / f'{name}.csv', 'w', newline='') as file:
                csv.writer(file).writerows([head, *rows])
        analyzer = self.folder / 'heapledger'
        analyzer.write_text(
            '#!/bin/sh\n'
            'case "$1 $3 $5" in\n'
            '"analyze --json --csv"|"analyze --json ") ;;\n'
            '"analyze --json --top") set -- "$1" "$2" "$3" "$4" ;;\n'
            '*) exit 2 ;;\n'
            'esac\n'
            f'status={self.analyzer_status}\n'
            '[ $status = 0 ] || { echo "heapledger: analyze: $2: broken at 64" >&2;'
            ' exit $status; }\n'
            f'cp "{source}/analysis.json" "$4"\n'
            f'[ -z "$6" ] || {{ mkdir -p "$6" && cp "{source}"/*.csv "$6"; }}\n'
            f'[ -z "$8" ] || cp "{source}/map.json" "$8"\n'
            f'[ -z "${{10}}" ] || cp "{source}/none.pb.gz" "${{10}}"\n')
        analyzer.chmod(0o755)
        return analyzer

    def script(self, name, *arguments, env=None):
        """Runs report.py or check.py on the situation."""
        analyzer = self._write()
        return run([sys.executable, REPORTS / name, *arguments], cwd=self.folder,
                   env={'HEAPLEDGER_BIN': str(analyzer), 'PYTHONWARNINGS': 'error', **(env or {})})

    def findings(self):
        """What the report finds, title -> (kind, text), without drawing it."""
        sys.path.insert(0, str(REPORTS))
        from load import load
        from words import findings
        os.environ['HEAPLEDGER_BIN'] = str(self._write())
        return {found.title: (found.kind, found.text) for found in findings(load(self.trace))}

    def report(self, *arguments, **options):
        return self.script('report.py', self.trace, *arguments, **options)

    def check(self, budget, *arguments, **options):
        if isinstance(budget, str):
            budget = budget.encode()
        (self.folder / 'heap.toml').write_bytes(budget)
        return self.script('check.py', self.trace, '--budget', 'heap.toml', *arguments, **options)
