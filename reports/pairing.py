# SPDX-License-Identifier: MIT
#
# Pairs the places of two recordings in the code, of two builds perhaps: by the names of functions
# and modules, never by lines, addresses or numbers of stacks, which move with every change. Places
# of the same name are one. Knows nothing of files or figures.

import re
from collections import namedtuple

# What compilers append to the name of a part or a copy of a function.
_CLONE = re.compile(r"\.(?:isra|constprop|part|cold|lto_priv|llvm|clone)(?:\.\d+)*(?=\.|$)")
_LIBRARY_VERSION = re.compile(r"\.so(?:\.[\w.]+)?$")

# before, after: the rows of either side that have this name, in their order; one may be empty.
Pair = namedtuple("Pair", "name before after")


def module_name(module):
    """The file's name without folders and without a library's version; None if not known."""
    if not module:
        return None
    return _LIBRARY_VERSION.sub(".so", module.removesuffix(" (deleted)").rsplit("/", 1)[-1])


def function_name(function):
    return _CLONE.sub("", function) if function else None


def place(site):
    """The name of a place of the analyzer's JSON (docs/analysis.md): what keeps the block, where it
    is not the program, the module and the function. Without a symbol it is the module alone."""
    return site.get("kept"), module_name(site.get("module")), function_name(site.get("function"))


def stack(frames):
    """The name of a call stack: the places of its frames, from the innermost on."""
    return tuple(place(frame) for frame in frames)


def pair(before, after, name=place):
    """Every name of either side once, those of `after` first, in the order of the rows."""
    sides = [{}, {}]
    for side, rows in zip(sides, (before, after)):
        for row in rows:
            side.setdefault(name(row), []).append(row)
    names = {**dict.fromkeys(sides[1]), **dict.fromkeys(sides[0])}
    return [Pair(key, sides[0].get(key, []), sides[1].get(key, [])) for key in names]
