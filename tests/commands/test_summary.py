# SPDX-License-Identifier: MIT
"""The closing line of ./dev test: its sums, and that it cannot hide a failure."""

import json
import subprocess
import sys

import pytest

from conftest import SOURCE

PYTEST = 'skipped: tests/x.py::test_y: no kernel\ncases: {} passed, {} failed, {} skipped\n'
CMOCKA = ('[==========] heap: Running 3 test(s).\n[ RUN      ] test_a\n[  SKIPPED ] test_a\n'
          '[==========] heap: 3 test(s) run.\n[  PASSED  ] 2 test(s).\n'
          '[  SKIPPED ] 1 test(s), listed below:\n[  SKIPPED ] test_a\n\n 1 SKIPPED TEST(S)\n')


def summary(folder, *entries):
    logs = folder / 'meson-logs'
    logs.mkdir()
    lines = [json.dumps({'name': name, 'result': result, 'stdout': stdout})
             for name, result, stdout in entries]
    (logs / 'testlog.json').write_text('\n'.join(lines) + '\n')
    outcome = subprocess.run([sys.executable, SOURCE / 'tests' / 'summary.py', folder],
                             capture_output=True, text=True)
    return outcome.returncode, outcome.stdout.splitlines()


def test_sums(tmp_path):
    status, lines = summary(tmp_path, ('py', 'OK', PYTEST.format(5, 0, 1)), ('c', 'OK', CMOCKA),
                            ('victim', 'OK', 'nothing to say'), ('later', 'SKIP', 'no hugepages\n'))
    assert status == 0
    assert lines == ['skipped: py: tests/x.py::test_y: no kernel', 'skipped: c: test_a',
                     'skipped: later: no hugepages', '8 passed, 0 failed, 3 skipped']


@pytest.mark.parametrize('result, stdout, counts', [
    ('FAIL', PYTEST.format(5, 2, 0), '5 passed, 2 failed, 0 skipped'),
    ('FAIL', '', '0 passed, 1 failed, 0 skipped'),
    ('TIMEOUT', '', '0 passed, 1 failed, 0 skipped'),
    ('ERROR', PYTEST.format(5, 0, 0), '5 passed, 1 failed, 0 skipped'),
    ('OK', PYTEST.format(5, 1, 0), '5 passed, 1 failed, 0 skipped'),
])
def test_failure_shows(tmp_path, result, stdout, counts):
    status, lines = summary(tmp_path, ('fine', 'OK', PYTEST.format(0, 0, 0)), ('bad', result, stdout))
    assert status == 1
    assert lines[-1] == counts


def test_nothing_ran(tmp_path):
    status, _ = summary(tmp_path, ('none', 'OK', PYTEST.format(0, 0, 0)))
    assert status == 1
    assert subprocess.run([sys.executable, SOURCE / 'tests' / 'summary.py', tmp_path / 'x'],
                          capture_output=True).returncode == 1
