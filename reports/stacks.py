# SPDX-License-Identifier: MIT
#
# Call stacks and what they hold: reads what `heapledger export --format pprof` wrote, of the fields of
# profile.proto that it uses. Used by load.py; flame.py draws them. Knows nothing of figures.

import gzip
import zlib
from collections import namedtuple

# The largest that is read, unpacked: what is larger is no profile of ours.
MOST_BYTES = 1 << 30

Frame = namedtuple("Frame", "function file line")  # file and line: "" and 0 where unknown

# frames: the outermost first. values: name of the sample type -> number. number: the stack's, as in
# the analysis; 0 without stacks. cut: frames are missing at its outer end.
Row = namedtuple("Row", "process frames values number cut")


def read(path):
    """Rows of all processes; None if it has no values, ValueError if it is no profile."""
    try:
        with gzip.open(path) as file:
            data = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(str(error)) from None
    if len(data) > MOST_BYTES:
        raise ValueError("the profile is too large")
    try:
        return _rows(_by_number(memoryview(data)))
    except (IndexError, KeyError) as error:
        raise ValueError(f"the profile refers to what is not in it: {error}") from None


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data):
    """(number, integer or bytes) of a message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        value, at = _varint(data, at)
        if key & 7 == 2:
            if value > end - at:
                raise ValueError("the profile ends early")
            value, at = data[at:at + value], at + value
        elif key & 7:
            raise ValueError("the profile has a field of another kind")
        yield key >> 3, value


def _by_number(data):
    """Field number -> its values in order."""
    found = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    return found


def _packed(lists):
    values = []
    for data in lists:
        at = 0
        while at < len(data):
            value, at = _varint(data, at)
            values.append(value)
    return values


def _one(message, number, missing=0):
    return message.get(number, [missing])[0]


def _rows(profile):
    strings = [bytes(text).decode(errors="replace") for text in profile.get(6, [])]
    types = [strings[_one(_by_number(kind), 1)] for kind in profile.get(1, [])]
    modules = {}
    for data in profile.get(3, []):
        module = _by_number(data)
        modules[_one(module, 1)] = (strings[_one(module, 5)].rsplit("/", 1)[-1], _one(module, 2))
    functions = {}
    for data in profile.get(5, []):
        function = _by_number(data)
        functions[_one(function, 1)] = strings[_one(function, 2)], strings[_one(function, 4)]
    places = {_one(place, 1): _frames(place, functions, modules)
              for place in map(_by_number, profile.get(4, []))}
    rows = []
    for data in profile.get(2, []):
        sample = _by_number(data)
        labels = _labels(sample, strings)
        frames = [frame for place in reversed(_packed(sample.get(1, []))) for frame in places[place]]
        rows.append(Row(labels.get("process", ""), tuple(frames),
                        dict(zip(types, map(_signed, _packed(sample.get(2, []))))),
                        labels.get("stack", 0), bool(labels.get("cut"))))
    return rows if types else None


def _signed(value):
    return value - (1 << 64) if value >> 63 else value


def _frames(place, functions, modules):
    """Of an address: the functions that were inlined there come last. Without one it is unknown."""
    if not _one(place, 3):
        return []
    found = []
    for data in reversed(place.get(4, [])):
        line = _by_number(data)
        name, file = functions[_one(line, 1)]
        found.append(Frame(name, file, _one(line, 2)))
    if found:
        return found
    module, start = modules.get(_one(place, 2), ("", 0))
    return [Frame(f"{module}{'+' if module else ''}{_one(place, 3) - start:#x}", "", 0)]


def _labels(sample, strings):
    labels = {}
    for data in sample.get(3, []):
        label = _by_number(data)
        labels[strings[_one(label, 1)]] = (
            strings[_one(label, 2)] if 2 in label else _one(label, 3))
    return labels
