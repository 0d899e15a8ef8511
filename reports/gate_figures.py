# SPDX-License-Identifier: MIT
#
# What the gate judges: the figures of one run by the paths of budget.py, and of several runs the
# best of each. None is what was not measured. Does no arithmetic but sums over equal names.

import pairing

# A trace with events missing has at least these: it can prove that a limit was exceeded.
GROWING = ("syscalls", "causes", "peak", "events")

ALL_PLACES = 1_000_000  # as many as `analyze --top` takes


# Of allocator calls those that ask for memory.
_ALLOCATIONS = ("malloc", "calloc", "realloc", "aligned_alloc", "memalign",
                "posix_memalign", "valloc", "pvalloc")


def value(analysis, path):
    if path == ("events", "allocations"):
        return _allocations(analysis)
    special = {"causes": _cause, "phases": _phase, "sites": _site, "returned": _returned}
    if path[0] in special:
        return special[path[0]](analysis, *path[1:])
    return analysis.get(".".join(path))


def _allocations(analysis):
    """Those that succeeded."""
    if analysis.get("events.calls") is None:
        return None
    calls = analysis.get("events.by_call", {})
    return sum(calls[name]["count"] - calls[name]["failed"] for name in _ALLOCATIONS if name in calls)


def have_names(analysis):
    return any(site["function"] for moment in analysis.get("moments", [])
               for site in moment["sites"])


def _cause(analysis, reason):
    rows = analysis.get("syscalls.by_cause")
    if rows is None:
        return None
    return sum(row["count"] for row in rows if row["reason"] == reason)


def _phase(analysis, name, *path):
    """A phase of that name, or several: counts are summed, of peaks the highest counts."""
    if analysis.get("phases_beyond"):
        return None
    values = []
    for phase in analysis.get("phases", []):
        if phase["name"] == name:
            found = phase
            for key in path:
                found = found[key]
            values.append(found)
    if not values or None in values:
        return None
    return max(values) if path[0] == "peak" else sum(values)


def _site(analysis, name, moment, key):
    """What the place holds at the moment: 0 only if it is known and holds something at another."""
    found = {which: places(analysis, which) for which in ("mapped_peak", "end")}
    if None in found.values():
        return None
    function, _, module = name.partition("@")
    wanted = pairing.frame({"function": function, "module": module})
    sums = {which: [place[key] for place in rows if place["function"] == wanted[1]
                    and wanted[0] in (None, place["module"])] for which, rows in found.items()}
    return sum(sums[moment]) if any(sums.values()) else None


def places(analysis, moment):
    """The places that hold memory at a moment, most first, or None if not all are listed; by
    pairing's names of them."""
    for entry in analysis.get("moments", []):
        if entry["moment"] == moment:
            break
    else:
        return None
    if len(entry["sites"]) < entry["sites_total"]:
        return None
    sums = {}
    for site in entry["sites"]:
        if site["kept"] or not site["blocks"]:
            continue
        name = pairing.place(site)
        place = sums.setdefault(name, {**_frame(name.head[-2:]), "requested_bytes": 0, "blocks": 0,
                                       "frames": [_frame(part) for part in name.frames] or None})
        place["requested_bytes"] += site["requested_bytes"]
        place["blocks"] += site["blocks"]
    return sorted(sums.values(), key=lambda place: -place["requested_bytes"])


def _frame(frame):
    return {"module": frame[0], "function": frame[1]}


def _returned(analysis, _share):
    """Of the pages that were free and not used again, percent that went back to the kernel."""
    back = analysis.get("free_to_return.returned_page_bytes")
    never = analysis.get("free_to_return.never_page_bytes")
    if back is None or never is None or not back + never:
        return None
    return 100 * back / (back + never)


class Runs:
    """Several recordings of the same program. A figure is the lowest of all runs: noise only adds.
    With one that is not whole, none of it is whole."""

    def __init__(self, analyses):
        self.analyses = analyses

    def values(self, limit):
        return [value(analysis, limit.path) for analysis in self.analyses]

    def best(self, limit):
        values = self.values(limit)
        if None in values:
            return None
        return max(values) if limit.least else min(values)

    def best_run(self, limit):
        """The run that has it."""
        values = self.values(limit)
        best = self.best(limit)
        return self.analyses[values.index(best) if best is not None else 0]

    @property
    def named(self):
        return all(have_names(analysis) for analysis in self.analyses)

    @property
    def complete(self):
        return all(analysis.complete for analysis in self.analyses)

    @property
    def overwritten(self):
        return max(analysis.overwritten for analysis in self.analyses)

    @property
    def weakest(self):
        """The run to name when something is missing."""
        return max(self.analyses, key=lambda a: (not a.complete, a.overwritten))
