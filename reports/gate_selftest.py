# SPDX-License-Identifier: MIT
#
# `heapledger check --self-test`: shows on the spot that the gate can fail. Records a small program,
# lets each kind of limit stand at what was measured (kept) and just under it (must be caught), and
# then breaks the trace. The verdicts are those of the command itself, in processes of their own.

import glob
import json
import os
import subprocess
import sys
import tempfile

import budget
import gate_figures
import load
import units
from load import FINDING, Failure, NO_EVIDENCE, OK, UNREADABLE

# Blocks of its own, all freed but some; two phases, named as heapledger/mark.h does.
_PROGRAM = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
mark = lambda name: libc.malloc_info(0x48504c31, ctypes.c_char_p(name))
mark(b'grow')
blocks = [libc.malloc(size) for size in range(1000, 300000, 1000)]
mark(b'drop')
for block in blocks[:-9]:
    libc.free(ctypes.c_void_p(block))
"""


def run():
    """Prints a line for each trial; FINDING when the gate let one pass that it must catch."""
    with tempfile.TemporaryDirectory(prefix="heapledger-") as folder:
        bench = _Bench(folder)
        trials = [bench.trial(name, text, status) for name, text, status in bench.budgets()]
        trials += bench.baseline() + bench.broken()
    wrong = trials.count(False)
    print(f"FAILED: {wrong} of {len(trials)} trials" if wrong
          else f"PROVEN: {len(trials)} of {len(trials)} trials")
    return FINDING if wrong else OK


class _Bench:
    def __init__(self, folder):
        self.folder = folder
        self.trace = self.path("trace")
        words = [load.program(), "record", "-q", "--stacks", "8", "-o", self.trace, "--",
                 sys.executable, "-c", _PROGRAM]
        status = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
        if status:
            raise Failure(NO_EVIDENCE, f"the program of the self-test ended with status {status}")
        self.analysis = load.load(self.trace, False, gate_figures.ALL_PLACES)

    def path(self, name):
        return os.path.join(self.folder, name)

    def budgets(self):
        """(name, budget, wanted status): all that was measured at its limit, and each beyond it."""
        limits = list(self.limits())
        yield (f"{len(limits)} limits at what was measured",
               "".join(_toml(keys, value, 0) for keys, value in limits), OK)
        for table in budget.TABLES:
            beyond = [_toml(keys, value, 1) for keys, value in limits if keys[0] == table]
            if beyond:
                yield (f"[{table}], {units.counted(len(beyond), 'limit')} broken",
                       "".join(beyond), FINDING)
        yield "a phase that never comes", "[phases.never]\ntotal = 9\n", NO_EVIDENCE
        yield "a place that is not there", "[sites.no_such_function]\npeak = 9\n", NO_EVIDENCE

    def limits(self):
        """One key of each table at least, of those that were measured and are not 0."""
        for table, keys in budget.KEYS.items():
            yield from self._measured((table,), keys, ())
        yield from self._measured(("phases", "grow"), budget.NAMED["phases"], ("phases", "grow"))
        for place in gate_figures.places(self.analysis, "mapped_peak") or []:
            if place["function"]:
                name = ("sites", place["function"])
                yield from self._measured(name, budget.NAMED["sites"], name)
                break

    def _measured(self, tables, keys, before):
        for key, (path, _) in keys.items():
            value = gate_figures.value(self.analysis, (*before, *path))
            if value:
                yield (*tables, key), value

    def trial(self, name, text, wanted, trace=None, arguments=()):
        words = []
        if text is not None:
            with open(self.path("budget.toml"), "w", encoding="utf-8") as file:
                file.write(text)
            words = ["--budget", self.path("budget.toml")]
        done = subprocess.run([load.program(), "check", trace or self.trace, *words, *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False)
        status = done.returncode
        good = status == wanted and (text is None or wanted != FINDING or _all_caught(done.stdout))
        print(f"{'ok' if good else 'WRONG':<5}  {name}: exit status {status}"
              + ("" if good else f", not {wanted}" if status != wanted else ", but not for each"))
        return good

    def baseline(self):
        path = self.path("baseline.json")
        files = ("--baseline", path)
        trials = [self.trial("a new baseline", None, OK, None, (*files, "--update")),
                  self.trial("the same as the baseline", None, OK, None, files)]
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        calls = data["figures"]["events.calls"]
        part = data["phases"]["grow"]["calls"]
        whole, of_phase = calls["least"], part["least"]
        for name, wanted, figure, value, more in (
                ("twice the calls of the baseline", FINDING, calls, whole // 2, ()),
                ("half the calls, with --ratchet", FINDING, calls, whole * 2, ("--ratchet",)),
                ("the same again", OK, calls, whole, ()),
                ("twice the calls of a phase", FINDING, part, of_phase // 2, ())):
            figure["least"] = figure["most"] = value
            self._write(path, data)
            trials.append(self.trial(name, None, wanted, None, (*files, *more)))
        data["phases"]["never"] = data["phases"].pop("grow")
        self._write(path, data)
        trials.append(self.trial("a phase of the baseline that never comes", None, NO_EVIDENCE, None,
                                 files))
        return trials

    @staticmethod
    def _write(path, data):
        with open(path, "w", encoding="ascii") as file:
            json.dump(data, file)

    def broken(self):
        """The trace is not needed any more."""
        generous = f"[events]\ncalls = {10**12}\n"
        stream = max(glob.glob(os.path.join(self.trace, "*.hlt")), key=os.path.getsize)
        size = os.path.getsize(stream)
        os.truncate(stream, size - 3)
        trials = [self.trial("a stream cut short", generous, UNREADABLE)]
        os.unlink(stream)
        trials.append(self.trial("no trace at all", generous, UNREADABLE, self.path("none")))
        return trials


def _all_caught(printed):
    """No line of the verdict says that its limit was kept."""
    return not any(line.startswith((b"ok ", b"? ")) for line in printed.splitlines())


def _toml(keys, value, beyond):
    """A limit that the value keeps, or just does not."""
    *tables, key = keys
    name = ".".join(json.dumps(table) for table in tables)
    least = key == "least_share"
    if isinstance(value, float):
        step = max(abs(value) * 0.001, 1e-6) * beyond
        limit = value + step if least else value - step
    else:
        limit = value - beyond
    return f"{name}.{key} = {limit!r}\n"
