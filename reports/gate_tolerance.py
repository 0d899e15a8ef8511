# SPDX-License-Identifier: MIT
#
# How far a figure may lie from its baseline: the larger of a share of it and of an amount, and unless
# told otherwise as far as the runs of the baseline lie from each other. Reads
# `--tolerance [NAME=]2%,64KiB`. The defaults are documented in docs/ci.md, and why.

import fnmatch
import re

import budget
from load import Failure, USAGE

# name: (percent, amount), the first that matches.
DEFAULTS = (
    ("peak.rss", 5, 1 << 20),
    ("peak.*", 2, 64 << 10),
    ("end.live_blocks", 2, 16),
    ("end.*", 2, 64 << 10),
    ("syscalls.*", 2, 2),
    ("phases.*.calls", 2, 0),
    ("phases.*.requested", 2, 64 << 10),
    ("phases.*.mapped", 2, 64 << 10),
    ("phases.*", 2, 2),
    ("*", 2, 0),
)


class Tolerances:
    def __init__(self, words=()):
        self.given = [_read(word) for word in words]

    def of(self, name, value, spread=0):
        """How much more or less than `value` is still the same; `spread`: how much more was seen."""
        for _, pattern, percent, amount in reversed(self.given):
            if fnmatch.fnmatchcase(name, pattern):
                return _larger(value, percent, amount)
        percent, amount = next(rule[1:] for rule in DEFAULTS if fnmatch.fnmatchcase(name, rule[0]))
        return max(_larger(value, percent, amount), spread)

    def refuse_unused(self, names, any_phase=False):
        """any_phase: which phases there are is not known yet."""
        for word, pattern, _, _ in self.given:
            if not fnmatch.filter(names, pattern) and not (any_phase and
                                                           pattern.startswith("phases.")):
                raise Failure(USAGE, f"--tolerance {word}: no figure is called so; there are "
                                     f"{', '.join(names)}")


def _larger(value, percent, amount):
    return max(int(abs(value) * percent / 100), amount)


def _read(word):
    pattern, equals, text = word.rpartition("=")
    percent = amount = None
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[A-Za-z]*)\s*", part)
        if found and found.group(2) == "%" and percent is None:
            percent = float(found.group(1))
        elif found and found.group(2).upper() in budget.UNITS and amount is None:
            amount = budget.scaled(found.group(1), found.group(2))
        else:
            raise Failure(USAGE, f"--tolerance {word}: {part.strip()!r} is neither a share like 2% "
                                 "nor an amount like 64KiB")
    return word, pattern if equals else "*", percent or 0, amount or 0
