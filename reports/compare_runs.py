# SPDX-License-Identifier: MIT
#
# Runs a program under several policies and allocators for compare.py, each run once as it is and
# once recorded. Time and page faults are those of the first, by its rusage, so that no recorder is
# in them; counts and bytes are the analyzer's of the second.

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

import execute
import words
from load import Failure, NO_EVIDENCE, USAGE, load, program

POLICIES = ("brk", "mmap", "hybrid")
# By the names of their libraries; the C library's own needs none.
ALLOCATORS = {"glibc": (), "jemalloc": ("libjemalloc.so.2",),
              "mimalloc": ("libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so.2.0"),
              "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")}
SYSCALLS = ("brk", "mmap", "munmap", "mremap", "madvise", "mprotect")
_OURS = ("HEAPLEDGER_OUT", "HEAPLEDGER_SESSION", "HEAPLEDGER_POLICY")
_CALLERS = ("SUDO_UID", "DOAS_USER", "PKEXEC_UID")
_SAID_LINES = 3

# policy: heapledger's allocator with it; else the allocator is the program's, or the library
# `preloaded`.
Variant = namedtuple("Variant", "name policy preloaded")
# status: as a shell has it, 128 and more for signals.
Failed = namedtuple("Failed", "run recorded status said")


class Result:
    """All runs of one variant: values[figure] has one value a run, None where not measured."""

    def __init__(self, variant):
        self.variant = variant
        self.values = {}
        self.failed = []
        self.notes = []
        self.complete = True
        self.own_malloc = None
        self.analysis = None  # of the first recorded run, if its address map is wanted

    def add(self, figures):
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def figure(self, name):
        """{"median", "min", "max", "runs"}, or None when a run of them has no value."""
        values = self.values.get(name, [])
        if not values or None in values:
            return None
        return {"median": statistics.median(values), "min": min(values), "max": max(values),
                "runs": values}


def variants(policies, allocators):
    return [Variant(name, name, None) for name in policies] + [
        Variant(_short(name), None, find_library(name)) for name in allocators]


def _short(name):
    return os.path.basename(name) if "/" in name else name


def refuse_for_others():
    """`record` under sudo runs the program as the caller; a run without it would be root's."""
    names = [name for name in _CALLERS if os.environ.get(name, "0") not in ("", "0")]
    if os.geteuid() == 0 and names:
        raise Failure(USAGE, f"not by {names[0].split('_')[0].lower()}: run it as the user that the "
                             f"program is to be, or with env -u {names[0]} as root")


def find_library(name):
    """The path of an allocator's library; None for the C library's own."""
    if "/" in name:
        if not os.path.isfile(name):
            raise Failure(USAGE, f"--observe {name}: no such file")
        path = os.path.abspath(name)
        if re.search(r"[\s:]", path):
            raise Failure(USAGE, f"--observe {name}: LD_PRELOAD cannot name a path with a space or "
                                 "a colon")
        return path
    if name not in ALLOCATORS:
        raise Failure(USAGE, f"--observe {name}: is none of {', '.join(ALLOCATORS)}, and not the "
                             "path of a library")
    if not ALLOCATORS[name]:
        return None
    known = _installed_libraries()
    for file in ALLOCATORS[name]:
        if file in known:
            return known[file]
    raise Failure(USAGE, f"--observe {name}: {ALLOCATORS[name][0]} is not installed")


def _installed_libraries():
    """What the dynamic linker's cache has: file name -> path."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    tool = shutil.which("ldconfig", path=path)
    listed = subprocess.run([tool, "-p"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            check=False).stdout if tool else ""
    rows = re.findall(r"^\s*(\S+) \(([^)]*x86-64[^)]*)\) => (\S+)$", listed, re.MULTILINE)
    return {name: place for name, _, place in reversed(rows)}


class Runner:
    """Runs `words` in all ways, with a scratch folder for traces and what the program says."""

    def __init__(self, words, stdin, show, maps, scratch):
        self.words, self.stdin, self.show, self.scratch = words, stdin, show, scratch
        self.maps = maps
        self.said = os.path.join(scratch, "stderr")
        self.preload = self._preload_of_record()

    def _environment(self, variant, recorded):
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        if variant.policy:
            environment["HEAPLEDGER_POLICY"] = variant.policy
            if not recorded:
                environment["LD_PRELOAD"] = self.preload
        elif variant.preloaded:
            environment["LD_PRELOAD"] = ":".join(
                filter(None, (variant.preloaded, environment.get("LD_PRELOAD"))))
        return environment

    def _preload_of_record(self):
        """What `record` preloads, so that a run without it has the very same library."""
        command = [program(), "record", "-q", "--kernel", "off", "--residency", "off", "-o",
                   os.path.join(self.scratch, "preload.hl"), "--", "/bin/sh", "-c",
                   'printf %s "$LD_PRELOAD"']
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        outcome = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 env=environment, check=False)
        if outcome.returncode or not outcome.stdout:
            raise Failure(NO_EVIDENCE, "nothing can be recorded here")
        return os.fsdecode(outcome.stdout)

    def once(self, result, number):
        self.recorded(result, number)
        self.bare(result, number)

    def bare(self, result, number):
        with self._where(result.variant, False) as where:
            start = time.monotonic_ns()
            status, usage = execute.run(self.words, **where)
            wall = time.monotonic_ns() - start
        result.add({"wall_ns": wall, "user_ns": round(usage.ru_utime * 1e9),
                    "system_ns": round(usage.ru_stime * 1e9), "minor_faults": usage.ru_minflt,
                    "major_faults": usage.ru_majflt})
        self._note(result, number, False, status)

    def recorded(self, result, number):
        trace = os.path.join(self.scratch, "run.hl")
        kind = ["--kernel", "off"] if result.variant.policy else ["--observe"]
        with self._where(result.variant, True) as where:
            try:
                status = execute.record(self.words, trace, [*kind, "--residency", "off"], **where)
            except execute.NotRecorded as failure:
                sys.stderr.write("".join(line + "\n" for line in _tail(self.said)
                                         if line.startswith("heapledger: ")))
                raise Failure(failure.code, f"{self.words[0]}: cannot be recorded") from None
        analysis = load(trace, tables=False, address_map=self.maps and not result.analysis)
        result.analysis = result.analysis or (analysis if self.maps else None)
        shutil.rmtree(trace)
        self._note(result, number, True, status)
        result.add(figures(analysis))
        result.complete = result.complete and analysis.complete
        if analysis.elsewhere:
            result.own_malloc = words.own_malloc(analysis)
        result.notes += [note for note in analysis.notes if note not in result.notes]

    @contextlib.contextmanager
    def _where(self, variant, recorded):
        with open(self.said, "wb") as said, open(self.stdin, "rb") as stdin:
            yield {"stdin": stdin, "env": self._environment(variant, recorded),
                   "stdout": sys.stderr if self.show else subprocess.DEVNULL,
                   "stderr": sys.stderr if self.show else said}

    def _note(self, result, number, recorded, status):
        if status:
            result.failed.append(Failed(number, recorded, status, _tail(self.said)))


def _tail(path):
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return file.read().decode(errors="replace").splitlines()[-_SAID_LINES:]


def figures(analysis):
    """What compare shows of an analysis; None for what it does not know."""
    counts = {f"{name}_calls": analysis.get(f"syscalls.{name}") for name in SYSCALLS}
    pages = analysis.get("free_to_return") or {}
    return {"allocator_calls": analysis.get("events.calls"), **counts,
            "syscalls": analysis.get("syscalls.total"),
            "syscall_ns": analysis.get("syscalls.time_ns"),
            "peak_requested_bytes": analysis.get("peak.requested_bytes"),
            "peak_mapped_bytes": analysis.get("peak.mapped_bytes"),
            "peak_rss_bytes": analysis.get("peak.rss_bytes"),
            "end_rss_bytes": analysis.get("end.rss_bytes"),
            "returned_percent": returned_percent(pages),
            "fragmentation_percent": analysis.get("fragmentation.mapped.at_peak_mapped")}


def returned_percent(pages):
    """Of the bytes of freed pages that no block was put on again, those that went back."""
    back, never = pages.get("returned_page_bytes"), pages.get("never_page_bytes")
    if back is None or never is None or not back + never:
        return None
    return 100 * back / (back + never)


def measure(kinds, words, stdin, show, maps, rounds, progress):
    """A Result a variant; the order changes from round to round, so that what disturbs the machine
    disturbs all alike."""
    results = [Result(variant) for variant in kinds]
    with tempfile.TemporaryDirectory(prefix="heapledger-") as scratch:
        runner = Runner(words, _input(stdin, scratch), show, maps, scratch)
        for number in range(1, rounds + 1):
            shift = (number - 1) % len(results)
            for result in results[shift:] + results[:shift]:
                progress(number, result.variant)
                runner.once(result, number)
    return results


def _input(stdin, scratch):
    """The file that every run reads: our own standard input is read once and kept for all."""
    if stdin != "-":
        return stdin or os.devnull
    path = os.path.join(scratch, "stdin")
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path
