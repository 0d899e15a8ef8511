# SPDX-License-Identifier: MIT
#
# Gets the analysis of a trace directory: runs `heapledger analyze` into a temporary directory and
# reads the JSON and CSV it writes (docs/analysis.md). Used by report.py and check.py. Does no
# arithmetic on what it reads; the analyzer's own messages pass through on stderr.

import concurrent.futures
import csv
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections import namedtuple

import stacks

SCHEMA = "heapledger-analysis/1"
MAP_SCHEMA = "heapledger-map/1"

OK, FINDING, USAGE, UNREADABLE, NO_EVIDENCE = range(5)

_TABLES = ("timeline", "samples", "syscalls", "return_latency", "sizes",
           "lifetimes", "fragmentation", "resident")
_SHARES = ("unusable_", "split_")
SAMPLE_GROUPS = 1000
Verdict = namedtuple("Verdict", "code lines")  # of `heapledger verify`: its exit status and output

_TEXT_COLUMNS = {"stream", "syscall", "reason", "call", "clock"}


class Failure(Exception):
    """What stops a command: its exit code, and a message unless it was said already."""

    def __init__(self, code, message=None):
        super().__init__(message)
        self.code = code
        self.message = message


class Analysis:
    """The analyzer's JSON with its tables and its address map, if it made them. get("peak.rss_bytes") is None for what is null."""

    def __init__(self, data, tables, session=None, address_map=None, stacks=None, verdict=None):
        self.data = data
        self.verdict = verdict  # None: not known
        self.stacks = stacks  # rows of stacks.py; None: not known
        self.map = address_map
        self.tables = tables
        self.session = session or {}

    def get(self, path, default=None):
        value = self.data
        for key in path.split("."):
            if not isinstance(value, dict):
                return default
            value = value.get(key)
        return default if value is None else value

    def rows(self, table, stream=None):
        rows = self.tables.get(table, [])
        return rows if stream is None else [row for row in rows if row["stream"] == stream]

    @property
    def observed(self):
        """The program had its own allocator, whose inside is not known."""
        return self.get("mode") in ("observe", "imported", "attached")

    @property
    def imported(self):
        """The log of another tool, which says nothing but calls, addresses and sizes."""
        return self.get("mode") == "imported"

    @property
    def malformed_lines(self):
        """Lines of an imported log that could not be read."""
        return self.get("imported.malformed_lines", 0)

    @property
    def attached(self):
        """It ran before, so that of its heap only what came since can be known."""
        return self.get("mode") == "attached"

    @property
    def main_start_ns(self):
        """Of the process that figures are of, which may have begun late."""
        starts = [process.get("start_ns") for process in self.get("processes", [])
                  if process.get("stream") == self.get("main_stream")]
        return starts[0] if starts and starts[0] is not None else 0

    @property
    def lost(self):
        return self.get("events.lost", 0)

    @property
    def complete(self):
        return self.get("complete", False) is True and not self.lost

    @property
    def overwritten(self):
        """Events that record --ring left out, being older than what it was to keep."""
        return self.get("overwritten_events", 0)

    @property
    def unrecorded(self):
        """Processes of the run that are not in the trace."""
        number = self.session.get("unrecorded_processes")
        return number if isinstance(number, int) else 0

    @property
    def elsewhere(self):
        """Processes whose calls of malloc go to the program's own, and are not recorded."""
        return [p for p in self.get("processes", []) if p.get("malloc_elsewhere")]

    @property
    def all_elsewhere(self):
        return len(self.elsewhere) == len(self.get("processes", [])) > 0

    @property
    def missing_streams(self):
        """Streams that session.json names and the analyzer did not find."""
        there = {p.get("stream") for p in self.get("processes", [])}
        listed = self.session.get("streams")
        names = [s.get("file") for s in listed if isinstance(s, dict)] if isinstance(
            listed, list) else []
        return [name for name in names
                if isinstance(name, str) and name.removesuffix(".hlt") not in there]

    @property
    def notes(self):
        """What the recording or the analyzer has to say about missing parts, for people."""
        notes = self.get("notes") or self.session.get("notes") or []
        return [note for note in notes if isinstance(note, str)]

    @property
    def incomplete_streams(self):
        """Not closed; one that only has events missing is not complete either."""
        return [p for p in self.get("processes", []) if p.get("complete") is not True
                and not p.get("events", {}).get("lost")]


def program():
    """The heapledger binary: the one that started us, or the one in PATH."""
    name = os.environ.get("HEAPLEDGER_BIN") or shutil.which("heapledger")
    if not name:
        raise Failure(USAGE, "heapledger is not in PATH: run it as `heapledger report` or `check`, "
                             "or name the program in HEAPLEDGER_BIN")
    return name


def load(directory, tables=True, top=None, address_map=False, with_stacks=False,
         with_verdict=False):
    """top: so many rows of lists of places, with their call stacks, instead of the analyzer's 50.
    with_stacks: what each call stack holds, too. with_verdict: whether the kernel's side agrees."""
    if not os.path.isdir(directory):
        what = "is not a directory" if os.path.exists(directory) else "does not exist"
        raise Failure(UNREADABLE, f"{directory}: {what}: name a trace directory")
    with (tempfile.TemporaryDirectory(prefix="heapledger-") as scratch,
          concurrent.futures.ThreadPoolExecutor(1) as beside):
        verdict = beside.submit(verify, directory) if with_verdict else None
        output = os.path.join(scratch, "analysis.json")
        folder = os.path.join(scratch, "csv")
        map_file = os.path.join(scratch, "map.json")
        profile = os.path.join(scratch, "stacks.pb.gz")
        command = [program(), "analyze", directory, "--json", output]
        command += ["--top", str(top), "--stacks"] if top else []
        command += ["--csv", folder] if tables else []
        command += ["--map", map_file] if address_map else []
        command += ["--profile", profile] if with_stacks else []
        _run(command, output)
        return Analysis(read_json(output), read_tables(folder) if tables else {},
                        read_session(directory),
                        read_json(map_file, MAP_SCHEMA) if address_map else None,
                        read_stacks(profile) if with_stacks else None,
                        verdict.result() if verdict else None)


def _run(command, output):
    try:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              check=False).returncode
    except OSError as error:
        raise Failure(USAGE, f"cannot run {command[0]}: {error.strerror}") from None
    if code in (OK, FINDING, NO_EVIDENCE) and os.path.exists(output):
        return
    if code < 0:
        raise Failure(UNREADABLE, f"the analyzer was killed by signal {-code}")
    raise Failure(code or UNREADABLE)


def verify(directory):
    try:
        done = subprocess.run([program(), "verify", directory], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return Verdict(done.returncode, lines) if lines and done.returncode in (
        OK, FINDING, NO_EVIDENCE) else None


def read_json(path, wanted=SCHEMA):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise Failure(UNREADABLE, f"the analysis cannot be read: {error}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != wanted:
        raise Failure(UNREADABLE, f"the analysis has schema {schema!r}; this reads {wanted!r}: "
                                  "analyzer and reports are of different versions")
    return data


def read_stacks(path):
    """None where they are not known."""
    try:
        return stacks.read(path)
    except (OSError, ValueError) as error:
        raise Failure(UNREADABLE, f"the stacks cannot be read: {error}") from None


def read_tables(folder):
    return {name: _read_table(os.path.join(folder, name + ".csv")) for name in _TABLES}


def _read_table(path):
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = _thinned(file) if os.path.basename(path) == "samples.csv" else file
        return [{key: _cell(key, text) for key, text in row.items()}
                for row in csv.DictReader(lines)]


def _thinned(file):
    """samples.csv grows with the time that was recorded, a figure does not: of many rows of a
    stream, in order, as many groups as a figure is wide, and of each the first and the last row
    and those with the least and the most resident memory."""
    yield next(file, "")
    for _, rows in itertools.groupby(file, key=lambda line: line.partition(",")[0]):
        rows = list(rows)
        size = -(-len(rows) // SAMPLE_GROUPS)
        for start in range(0, len(rows), size):
            group = rows[start:start + size]
            values = [int(row.split(",", 3)[2]) for row in group]
            kept = {0, len(group) - 1, values.index(min(values)), values.index(max(values))}
            yield from (group[at] for at in sorted(kept))


def _cell(key, text):
    """Empty cells were not measured."""
    if key in _TEXT_COLUMNS:
        return text
    return float(text) if text and key.startswith(_SHARES) else int(text) if text else None


def read_session(directory):
    """session.json of the trace directory, for the date; a trace is readable without it."""
    try:
        path = os.path.join(directory, "session.json")
        if not os.path.isfile(path):  # a pipe would never end
            return {}
        with open(path, encoding="utf-8") as file:
            session = json.load(file)
    except (OSError, ValueError):
        return {}
    return session if isinstance(session, dict) else {}
