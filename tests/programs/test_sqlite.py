# SPDX-License-Identifier: MIT
"""sqlite3, the distribution's own, building, updating and dropping tables."""

import subprocess
import sys

from conftest import SOURCE


def script(tables, rows):
    """The script of the demo."""
    generator = SOURCE / 'examples' / 'sqlite_script.py'
    return subprocess.run([sys.executable, generator, '--tables', str(tables), '--rows', str(rows)],
                          check=True, capture_output=True).stdout


def test_in_memory(preload):
    result = preload.compare(['sqlite3', ':memory:'], input=script(12, 4000), least_calls=2_000_000)
    assert result.plain.status == 0
    assert result.plain.stdout.endswith(b'\n0\n')


def test_database_file(preload):
    """The file that it leaves is the same byte by byte."""
    statements = script(3, 1000).replace(b'DROP TABLE t1;', b'') + b'VACUUM;\n'
    result = preload.compare(['sqlite3', 'file.db'], input=statements, files=['file.db'],
                             least_calls=50_000)
    assert result.plain.status == 0
    assert len(result.plain.files['file.db']) > 100_000


def test_statement_that_fails(preload):
    """Status and message of a failure are the same, too."""
    result = preload.compare(['sqlite3', '-bail', ':memory:'], input=b'SELECT * FROM nowhere;\n')
    assert result.plain.status == 1
    assert b'nowhere' in result.plain.stderr
