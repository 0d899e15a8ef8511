# SPDX-License-Identifier: MIT
#
# Reads a budget file (TOML) into limits, each with its line, and refuses whatever it does not
# know: a misspelt budget must not pass. Used by check.py. Every error names file and line.

import difflib
import re
import tomllib
from collections import namedtuple

from load import Failure, USAGE

# name: "syscalls.brk"; path: where the analysis has the measured value; kind: how it is shown.
Limit = namedtuple("Limit", "name path kind limit line")

COUNT, SIZE = "count", "size"

_SYSCALLS = ("brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "total")

# Table -> key -> (path in the analysis, kind).
KEYS = {
    "syscalls": {name: (f"syscalls.{name}", COUNT) for name in _SYSCALLS},
    "peak": {name: (f"peak.{name}_bytes", SIZE) for name in ("rss", "requested", "mapped")},
    "events": {name: (f"events.{name}", COUNT) for name in ("calls", "lost")},
    "end": {"requested": ("end.requested_bytes", SIZE), "mapped": ("end.mapped_bytes", SIZE),
            "live_blocks": ("end.live_blocks", COUNT)},
}

_FILE_LIMIT_BYTES = 64 * 1024
_UNITS = {"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30, "T": 40,
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
        if table not in KEYS:
            raise lines.error((table,), f"unknown table [{table}]{_nearest(table, KEYS)}")
        if not isinstance(keys, dict):
            raise lines.error((table,), f"{table} must be a table [{table}], "
                                        f"not {_type_name(keys)}")
        limits += [_limit(lines, table, key, value) for key, value in keys.items()]
    if not limits:
        raise Failure(USAGE, f"{path}: no budget in it, so nothing would be checked; "
                             f"tables are {', '.join(f'[{name}]' for name in KEYS)}")
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


def _limit(lines, table, key, value):
    where = (table, key)
    if key not in KEYS[table]:
        raise lines.error(where, f"unknown key {key} in [{table}]{_nearest(key, KEYS[table])}")
    path, kind = KEYS[table][key]
    number = _number(lines, where, kind, value)
    return Limit(f"{table}.{key}", path, kind, number, lines.line(where))


def _number(lines, where, kind, value):
    name = ".".join(where)
    if kind == SIZE and isinstance(value, str):
        return _size(lines, where, value)
    if isinstance(value, bool) or not isinstance(value, int):
        wanted = ('an integer of bytes or a string like "64 MiB"' if kind == SIZE
                  else "an integer")
        raise lines.error(where, f"{name} must be {wanted}, not {_type_name(value)}")
    if value < 0:
        raise lines.error(where, f"{name} must not be negative: {value}")
    return value


def _size(lines, where, text):
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = found.group(2).upper() if found else None
    if unit in _DECIMAL:
        raise lines.error(where, f'{".".join(where)}: "{text}": write {_DECIMAL[unit]} '
                                 f"(binary units) instead of {found.group(2)}")
    if unit not in _UNITS:
        raise lines.error(where, f'{".".join(where)}: "{text}" is not a size; '
                                 f'write one like "64 MiB"')
    number, _, fraction = found.group(1).partition(".")
    scaled = int(number + fraction) << _UNITS[unit]
    return scaled // 10 ** len(fraction)


def _nearest(name, valid):
    close = difflib.get_close_matches(name.lower(), list(valid), 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(valid)}"


def _type_name(value):
    return _TYPES.get(type(value), "a date or time")
