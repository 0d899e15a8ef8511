# SPDX-License-Identifier: MIT
#
# Reads a budget file (TOML) into limits, each with its line, and refuses whatever it does not
# know: a misspelt budget must not pass. Used by the gate. Every error names file and line.

import difflib
import math
import re
import tomllib
from collections import namedtuple

from load import Failure, USAGE

# name: "syscalls.brk"; path: keys under which gate_figures.py has the value; kind: how it is shown;
# least: the limit is a lower one; base: the value of a baseline that the limit comes from.
Limit = namedtuple("Limit", "name path kind limit line least base", defaults=(False, None))

COUNT, SIZE, PERCENT = "count", "size", "percent"

_SYSCALLS = ("brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "total")

# Why the allocator makes a system call, as in include/heapledger/calls.def.
REASONS = (
    "unknown", "heap_init", "grow_top", "brk_fallback", "over_threshold", "arena_new", "arena_align",
    "arena_grow", "arena_shrink", "arena_free", "trim_top", "trim_call", "free_mmapped",
    "realloc_mremap", "interrupted", "metadata", "arena_fallback", "purge", "huge_page", "observed")

# Table -> key -> (path, kind).
KEYS = {
    "syscalls": {name: (("syscalls", name), COUNT) for name in _SYSCALLS},
    "causes": {name: (("causes", name), COUNT) for name in REASONS},
    "peak": {name: (("peak", f"{name}_bytes"), SIZE) for name in ("rss", "requested", "mapped")},
    "events": {name: (("events", name), COUNT) for name in ("calls", "allocations", "lost")},
    "end": {"requested": (("end", "requested_bytes"), SIZE),
            "mapped": (("end", "mapped_bytes"), SIZE),
            "live_blocks": (("end", "live_blocks"), COUNT)},
    "fragmentation": {name: (("fragmentation", "mapped", name), PERCENT)
                      for name in ("mean", "at_peak_live", "at_peak_mapped", "peaks")},
    "returned": {"least_share": (("returned", "share"), PERCENT)},
}

# Tables of tables, each named after what it limits: [phases.load], [sites.parse_line].
NAMED = {
    "phases": {**{name: (("syscalls", name), COUNT) for name in _SYSCALLS},
               "calls": (("calls",), COUNT),
               **{name: (("peak", f"{name}_bytes"), SIZE) for name in ("requested", "mapped", "rss")}},
    "sites": {"peak": (("mapped_peak", "requested_bytes"), SIZE),
              "peak_blocks": (("mapped_peak", "blocks"), COUNT),
              "end": (("end", "requested_bytes"), SIZE),
              "end_blocks": (("end", "blocks"), COUNT)},
}
TABLES = (*KEYS, *NAMED)

_FILE_LIMIT_BYTES = 64 * 1024
UNITS = {"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30, "T": 40,
          "TIB": 40}
_DECIMAL = {"KB": "KiB", "MB": "MiB", "GB": "GiB", "TB": "TiB"}
_TYPES = {bool: "a boolean", float: "a float", str: "a string", list: "an array", dict: "a table",
          int: "an integer"}


def read(path):
    """The limits of the file, in the order of their lines."""
    text = _read_text(path)
    lines = _Lines(path, text)
    limits = []
    for table, keys in lines.data.items():
        if table not in TABLES:
            raise lines.error((table,), f"unknown table [{table}]{_nearest(table, TABLES)}")
        _demand_table(lines, (table,), keys)
        if table in KEYS:
            limits += [_limit(lines, (table, key), KEYS[table], value)
                       for key, value in keys.items()]
            continue
        for name, inner in keys.items():
            _demand_table(lines, (table, name), inner)
            limits += [_limit(lines, (table, name, key), NAMED[table], value)
                       for key, value in inner.items()]
    if not limits:
        raise Failure(USAGE, f"{path}: no budget in it, so nothing would be checked; "
                             f"tables are {', '.join(f'[{name}]' for name in TABLES)}")
    return sorted(limits, key=lambda limit: limit.line)


def _read_text(path):
    try:
        with open(path, "rb") as file:
            raw = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise Failure(USAGE, f"{path}: {error.strerror}") from None
    if len(raw) > _FILE_LIMIT_BYTES:
        raise Failure(USAGE, f"{path}: larger than {_FILE_LIMIT_BYTES // 1024} KiB: not a budget")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Failure(USAGE, f"{path}:{line}: not UTF-8 text") from None


class _Lines:
    """The parsed file, and the line on which each key stands.

    tomllib gives no lines, so the file is parsed line by line from the top: the shortest beginning
    that parses and has the key ends with it, and the longest shorter one that parses ends before
    it. Exact for every way to write a key, since it is the parser which decides."""

    def __init__(self, path, text):
        self.path = path
        self.lines = text.split("\n")
        self.data = self._parse(text)

    def _parse(self, text):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)",
                                 str(error), re.S)
            message = found.group(1) if found else str(error)
            line = int(found.group(2)) if found and found.group(2) else len(self.lines)
            raise Failure(USAGE, f"{self.path}:{line}: not TOML: {message}") from None

    def line(self, keys):
        before = 0
        for end in range(1, len(self.lines) + 1):
            try:
                data = tomllib.loads("\n".join(self.lines[:end]))
            except tomllib.TOMLDecodeError:
                continue
            if _has(data, keys):
                return before + 1
            before = end
        return len(self.lines)

    def error(self, keys, message):
        return Failure(USAGE, f"{self.path}:{self.line(keys)}: {message}")


def _has(data, keys):
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _demand_table(lines, where, value):
    if not isinstance(value, dict):
        name = ".".join(where)
        raise lines.error(where, f"{name} must be a table [{name}], not {_type_name(value)}")


def _limit(lines, where, keys, value):
    *tables, key = where
    if key not in keys:
        raise lines.error(where, f"unknown key {key} in [{'.'.join(tables)}]{_nearest(key, keys)}")
    path, kind = keys[key]
    if len(where) == 3:
        path = (*tables, *path)
    number = _number(lines, where, kind, value)
    return Limit(".".join(where), path, kind, number, lines.line(where), key == "least_share")


def _number(lines, where, kind, value):
    name = ".".join(where)
    if kind == SIZE and isinstance(value, str):
        return _size(lines, where, value)
    types = (int, float) if kind == PERCENT else (int,)
    if isinstance(value, bool) or not isinstance(value, types):
        wanted = {SIZE: 'an integer of bytes or a string like "64 MiB"', COUNT: "an integer",
                  PERCENT: "a number, of percent"}[kind]
        raise lines.error(where, f"{name} must be {wanted}, not {_type_name(value)}")
    if not math.isfinite(value):
        raise lines.error(where, f"{name} must be finite: {value}")
    if value < 0:
        raise lines.error(where, f"{name} must not be negative: {value}")
    return value


def _size(lines, where, text):
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = found.group(2).upper() if found else None
    if unit in _DECIMAL:
        raise lines.error(where, f'{".".join(where)}: "{text}": write {_DECIMAL[unit]} '
                                 f"(binary units) instead of {found.group(2)}")
    if unit not in UNITS:
        raise lines.error(where, f'{".".join(where)}: "{text}" is not a size; '
                                 f'write one like "64 MiB"')
    return scaled(found.group(1), unit)


def scaled(digits, unit):
    """1.5 and MIB: bytes, exactly."""
    number, _, fraction = digits.partition(".")
    return (int(number + fraction) << UNITS[unit.upper()]) // 10 ** len(fraction)


def _nearest(name, valid):
    close = difflib.get_close_matches(name.lower(), list(valid), 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(valid)}"


def _type_name(value):
    return _TYPES.get(type(value), "a date or time")
