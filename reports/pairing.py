# SPDX-License-Identifier: MIT
#
# Pairs what two recordings, of two builds perhaps, have of the same names: of places in the code by
# those of functions and modules, never by lines, addresses or numbers of stacks, which move with
# every change. Where both have call stacks, a place is its whole stack, so that two callers of one
# helper are two. Used by compare and the gate; knows nothing of files or figures.

import difflib
import re
from collections import namedtuple

# What compilers append to the name of a part or a copy of a function.
_CLONE = re.compile(r"\.(?:isra|constprop|part|cold|lto_priv|llvm|clone)(?:\.\d+)*(?=\.|$)")
_LIBRARY_VERSION = re.compile(r"\.so(?:\.[\w.]+)?$")
_LIKE = 0.75  # names at least as close are taken for the same function, renamed
_COMPARED = 250_000  # pairs of names; a module with more of other names is another program
_TRIED = 100  # candidates whose callers' names are compared
_SHOWN = 3

# head: what must be the same, its last two the module and the function; frames: (module, function)
# of all frames, from the innermost on; none: not recorded, or not to be told apart by.
Name = namedtuple("Name", "head frames")

# before, after: the rows of either side that have this name, in their order; one may be empty. was:
# the name before, if it was another one.
Pair = namedtuple("Pair", "name was before after")


def module_name(module):
    """The file's name without folders and without a library's version; None if not known."""
    if not module:
        return None
    return _LIBRARY_VERSION.sub(".so", module.removesuffix(" (deleted)").rsplit("/", 1)[-1])


def function_name(function):
    return _CLONE.sub("", function) if function else None


def frame(row):
    """Without a symbol it is the module alone."""
    return module_name(row.get("module")), function_name(row.get("function"))


def place(site):
    """The name of a place of the analyzer's JSON (docs/analysis.md)."""
    return Name((site.get("kept"), *frame(site)), tuple(map(frame, site.get("frames") or ())))


def equal(before, after, name):
    """Every name of either side once, those of `after` first, in the order of the rows."""
    sides = [_grouped(rows, name) for rows in (before, after)]
    names = {**dict.fromkeys(sides[1]), **dict.fromkeys(sides[0])}
    return [Pair(key, None, sides[0].get(key, []), sides[1].get(key, [])) for key in names]


def _grouped(rows, name):
    groups = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def nearest(before, after, name=place):
    """The same of Names. A function of one side only is taken for the one of the other side only
    that is most like it in its module. What then has no equal is what had the same head and the
    longest common run of frames from the innermost on."""
    rows = [[(name(row), row) for row in side] for side in (before, after)]
    if not all(any(key.frames for key, _ in side) for side in rows):
        rows = [[(key._replace(frames=()), row) for key, row in side] for side in rows]
    new_names = _renamed(*({part for key, _ in side for part in (key.head[-2:], *key.frames)}
                           for side in rows))
    old_names = {}
    for old, _ in rows[0]:
        old_names.setdefault(_translated(old, new_names), old)
    pairs = equal([(_translated(key, new_names), row) for key, row in rows[0]], rows[1],
                  lambda pair: pair[0])
    return [Pair(key, _changed(key, old_names.get(was)), [row for _, row in old],
                 [row for _, row in new]) for key, was, old, new in _joined(pairs)]


def _changed(name, old):
    return old if old and old != name else None


def _renamed(before, after):
    """(module, function) of before -> what it is called now."""
    names = {}
    gone, new = _by_module(before - after), _by_module(after - before)
    for module in gone.keys() & new.keys():
        left = gone[module]
        if len(left) * len(new[module]) > _COMPARED:
            continue
        for function in new[module]:
            close = difflib.get_close_matches(function, left, 1, _LIKE)
            if close:
                left.remove(close[0])
                names[module, close[0]] = module, function
    return names


def _by_module(names):
    """Its functions, in order."""
    modules = {}
    for module, function in names:
        if function:
            modules.setdefault(module, []).append(function)
    return {module: sorted(functions) for module, functions in modules.items()}


def _translated(name, names):
    return Name((*name.head[:-2], *names.get(name.head[-2:], name.head[-2:])),
                tuple(names.get(part, part) for part in name.frames))


def _joined(pairs):
    """(name, name before, rows before, rows after): those of one side only put together."""
    gone = {pair.name: pair for pair in pairs if not pair.after}
    new = {pair.name: pair for pair in pairs if not pair.before}
    found = {}
    for length in range(max((len(name.frames) for name in new), default=0), -1, -1):
        waiting = _grouped([name for name in gone if len(name.frames) >= length],
                           lambda name: (name.head, name.frames[:length]))
        for name in [name for name in new if len(name.frames) >= length]:
            choices = waiting.get((name.head, name.frames[:length]))
            if choices:
                best = _most_alike(name, choices[:_TRIED], length)
                choices.remove(best)
                found[name] = gone.pop(best)
                del new[name]
    taken = {pair.name for pair in found.values()}
    return [(pair.name, found.get(pair.name, pair).name, found.get(pair.name, pair).before, pair.after)
            for pair in pairs if pair.name not in taken]


def _most_alike(name, names, length):
    """By the caller that differs first; the first of equals."""
    if len(names) == 1:
        return names[0]
    return max(names, key=lambda other: difflib.SequenceMatcher(
        None, _function(other, length), _function(name, length)).ratio())


def _function(name, index):
    return (name.frames[index][1] or "") if index < len(name.frames) else ""


def chain(name):
    """A place and who called it, the innermost first: grab < fill < main."""
    here = name.head[-2:]
    start = name.frames.index(here) if here in name.frames else len(name.frames)
    callers = [function for _, function in name.frames[start + 1:] if function]
    more = " < ..." if len(callers) >= _SHOWN else ""
    return " < ".join([here[1] or "(no symbol)", *callers[:_SHOWN - 1]]) + more


def text(pair):
    """For people, with what it was called before."""
    was = f" (was {chain(pair.was)})" if pair.was else ""
    return f"{chain(pair.name)} in {pair.name.head[-2] or '(unknown)'}{was}"
