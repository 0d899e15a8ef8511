# SPDX-License-Identifier: MIT
#
# What call stacks hold, as boxes: each function as wide as what the stacks through it hold, its
# callers above it. Without stacks, a list of the places that called the allocator. Data and words
# only; page.py and pdf.py draw them.

import places
import units

# Sample type, its colour, heading, and the form of its numbers.
VALUES = (("alloc_objects", "over_threshold", "By allocations", units.count),
          ("peak_space", "requested", "By live bytes when most was mapped", units.size),
          ("inuse_space", "requested", "By live bytes at the end", units.size),
          ("pinned_space", "whole", "By free bytes pinned when most was mapped", units.size))

LEAST = 0.001       # of the whole: what is narrower cannot be seen
DEEPEST = 60        # rows that are drawn
PLACES = 12         # of a list without stacks
CUT = "(cut: more callers were not recorded)"


class Box:
    """A function below its callers. start, value: where it lies in the whole, and how much it is."""

    def __init__(self, name, depth, start, value):
        self.name, self.depth, self.start, self.value = name, depth, start, value


class Flame:
    """One value of one process's stacks."""

    def __init__(self, heading, colour, form, rows, value):
        self.heading, self.colour, self.form = heading, colour, form
        held = [(row, row.values[value]) for row in rows if row.values.get(value, 0) > 0]
        self.total = sum(number for _, number in held)
        self.boxes = [Box("all", 0, 0, self.total)] if held else []
        self._lay(sorted((_names(row), number) for row, number in held), 0, 0)
        self.depth = max((box.depth for box in self.boxes), default=0) + 1
        self.is_cut = any(row.cut for row, _ in held)

    def _lay(self, stacks, depth, start):
        """Sorted stacks that are alike in their first `depth` names."""
        at = 0
        while at < len(stacks) and depth < DEEPEST - 1:
            names, number = stacks[at]
            if len(names) == depth:  # ends here
                start, at = start + number, at + 1
                continue
            past, value = at, 0
            while past < len(stacks) and len(stacks[past][0]) > depth and (
                    stacks[past][0][depth] == names[depth]):
                value += stacks[past][1]
                past += 1
            if value >= LEAST * self.total:
                self.boxes.append(Box(names[depth], depth + 1, start, value))
                self._lay(stacks[at:past], depth + 1, start)
            start, at = start + value, past

    def said(self, box):
        """The words of a box."""
        return f"{box.name}: {self.form(box.value)}, {units.share_text(box.value, self.total)}"

    def sentence(self):
        """The functions that called the allocator, those with the most."""
        below = {}
        for box in self.boxes:
            below.setdefault(box.depth, []).append(box)
        leaves = [box for box in self.boxes[1:] if not any(
            box.start <= child.start and child.start + child.value <= box.start + box.value
            for child in below.get(box.depth + 1, []))]
        leaves.sort(key=lambda box: -box.value)
        most = "; ".join(self.said(box) for box in leaves[:3])
        return f"{self.heading}: {self.form(self.total)} in all. The most: {most}."


def _names(row):
    names = tuple(frame.function for frame in row.frames) or ("unknown",)
    return (CUT, *names) if row.cut else names


def rows_of(analysis):
    """Those of the largest process; None where nothing is known."""
    if analysis.stacks is None:
        return None
    return [row for row in analysis.stacks if row.process == analysis.get("main_stream")]


def have_stacks(rows):
    return any(row.number for row in rows)


def flames(analysis):
    rows = rows_of(analysis) or []
    made = [Flame(heading, colour, form, rows, value) for value, colour, heading, form in VALUES]
    return [flame for flame in made if flame.total]


def lists(analysis):
    """(heading, form, total, [(place, value)], others) of each value, the largest first."""
    made = []
    for value, _, heading, form in VALUES:
        held = {}
        for row in rows_of(analysis) or []:
            number = row.values.get(value, 0)
            if number > 0:
                name = places.name(*row.frames[-1]) if row.frames else "unknown"
                held[name] = held.get(name, 0) + number
        total = sum(held.values())
        order = sorted(held.items(), key=lambda item: (-item[1], item[0]))
        if total:
            made.append((heading, form, total, order[:PLACES], max(len(order) - PLACES, 0)))
    return made
