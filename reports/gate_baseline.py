# SPDX-License-Identifier: MIT
#
# The baseline of the gate: the figures of an accepted state, and what explains them, as a JSON file
# that is committed (docs/ci.md). Written whole or not at all. Makes limits of it, and says which
# causes and which places have grown since.

import json
import os

import budget
import gate_figures
import output
import pairing
import units
from load import Failure, NO_EVIDENCE, UNREADABLE

SCHEMA = "heapledger-baseline/1"

# Lost events are no matter of taste: they are in no baseline.
NAMES = tuple((f"{table}.{key}", *budget.KEYS[table][key])
              for table in ("syscalls", "peak", "end", "events") for key in budget.KEYS[table]
              if key not in ("lost", "allocations"))

# Of each phase; its resident memory is not: a short phase may go by between two samples of it.
_OF_PHASES = {key: rule for key, rule in budget.NAMED["phases"].items() if key != "rss"}

SHOWN = 3
_PLACES_KEPT = 1000
_WORTH = 0.01  # of what grew most: less explains nothing
_MOMENTS = ("mapped_peak", "end")


def make(runs):
    """The content of a baseline file."""
    first = runs.analyses[0]
    return {
        "schema": SCHEMA, "version": first.get("version"), "mode": first.get("mode"),
        "policy": first.get("policy"), "command": first.get("command"),
        "runs": len(runs.analyses), "figures": _measured(runs, NAMES),
        "phases": {name: _measured(runs, [(key, ("phases", name, *path), kind)
                                          for key, (path, kind) in _OF_PHASES.items()])
                   for name in phases(runs)},
        "causes": causes(first),
        "places": {moment: (gate_figures.places(first, moment) or [])[:_PLACES_KEPT]
                   for moment in _MOMENTS},
    }


def _measured(runs, names):
    """What all runs know of these, the lowest and the highest."""
    figures = {}
    for name, path, kind in names:
        values = runs.values(budget.Limit(name, path, kind, 0, None))
        if None not in values:
            figures[name] = {"least": min(values), "most": max(values)}
    return figures


def phases(runs):
    """The names of the phases of all runs, in their order; what is before the first mark has none."""
    return list(dict.fromkeys(phase["name"] for analysis in runs.analyses
                              for phase in analysis.get("phases", []) if phase["name"] is not None))


def causes(analysis):
    return [{key: row[key] for key in ("syscall", "reason", "reason_text", "call", "count")}
            for row in analysis.get("syscalls.by_cause", []) if row["reason"] != "recorder"]


def write(path, runs):
    """Returns the names of figures that were not measured and are not in it."""
    data = make(runs)
    if not data["figures"]:
        raise Failure(NO_EVIDENCE, f"{path}: not written: no figure was measured")
    with output.replacing(path) as temporary:
        with open(temporary, "w", encoding="ascii") as file:
            file.write(_text(data) + "\n")
    return [name for name, _, _ in NAMES if name not in data["figures"]]


def _text(value, indent=""):
    """JSON in which a figure, a cause, a place has a line of its own, to be read as a diff."""
    inner = indent + " "
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [json.dumps(row) for row in value]
    elif isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        rows = [f"{json.dumps(key)}: {_text(part, inner)}" for key, part in value.items()]
    else:
        return json.dumps(value)
    first, last = "[]" if isinstance(value, list) else "{}"
    return f"{first}\n{inner}" + f",\n{inner}".join(rows) + f"\n{indent}{last}"


def guard(path):
    output.guard(path, SCHEMA.encode(), False, "check")


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        hint = "; --update makes one" if not os.path.lexists(path) else ""
        raise Failure(UNREADABLE, f"{path}: {error.strerror}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise Failure(UNREADABLE, f"{path}: not a baseline: {error}") from None
    fault = _fault(data)
    if fault:
        raise Failure(UNREADABLE, f"{path}: not a baseline: {fault}")
    return data


def _fault(data):
    """What is wrong with it, or None."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        return f"schema {found!r}; this reads {SCHEMA!r}"
    if not data.get("figures"):
        return "no figures in it"
    fault = _fault_of(data["figures"], {name for name, _, _ in NAMES})
    phases = data.setdefault("phases", {})  # older ones have none
    if not isinstance(phases, dict):
        return "phases"
    for figures in phases.values():
        fault = fault or _fault_of(figures, _OF_PHASES)
    if fault:
        return fault
    if not _are_rows(data.get("causes"), ("syscall", "reason", "reason_text"), ("count",)):
        return "causes"
    places = data.get("places")
    if not isinstance(places, dict) or not all(
            _are_rows(places.get(moment), (), ("requested_bytes", "blocks"))
            for moment in _MOMENTS):
        return "places"
    return None


def _fault_of(figures, known):
    if not isinstance(figures, dict):
        return "figures must be an object"
    for name, figure in figures.items():
        if name not in known:
            return f"unknown figure {name!r}"
        if not isinstance(figure, dict) or not all(
                _is_count(figure.get(key)) for key in ("least", "most")):
            return f"{name}: least and most must be integers of 0 and more"
    return None


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_rows(rows, texts, counts):
    return isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(row.get(key), str) for key in texts)
        and all(_is_count(row.get(key)) for key in counts)
        and _are_texts(row) and _are_frames(row.get("frames")) for row in rows)


def _are_texts(row):
    return all(isinstance(row.get(key), str | None) for key in ("call", "function", "module"))


def _are_frames(frames):
    return frames is None or isinstance(frames, list) and all(
        isinstance(frame, dict) and _are_texts(frame) for frame in frames)


def limits(data, path, runs, tolerances):
    """Each figure of the baseline with its tolerance on top."""
    for key in "mode", "policy":
        for analysis in runs.analyses:
            if analysis.get(key) != data.get(key):
                raise Failure(NO_EVIDENCE, f"{path}: of {key} {data.get(key)}, the recording of "
                                           f"{key} {analysis.get(key)}: not to be compared")
    def limit(name, path, kind, figure):
        base = figure["least"]
        most = base + tolerances.of(name, base, figure["most"] - base)
        return budget.Limit(name, path, kind, most, None, False, base)

    return [limit(name, path, kind, data["figures"][name]) for name, path, kind in NAMES
            if name in data["figures"]] + [
        limit(f"phases.{phase}.{key}", ("phases", phase, *_OF_PHASES[key][0]), _OF_PHASES[key][1],
              figure) for phase, figures in data["phases"].items() for key, figure in figures.items()]


def names(data):
    """All figures that a baseline can have; with data None those of no phase."""
    return [name for name, _, _ in NAMES] + [
        f"phases.{phase}.{key}" for phase, figures in (data or {}).get("phases", {}).items()
        for key in figures]


def growth(limit, analysis, data):
    """Lines that say what grew most since the baseline."""
    table = limit.path[0]
    if table in ("syscalls", "causes"):
        return _grown_causes(limit, analysis, data)
    if table in ("peak", "end", "sites"):
        moment = "end" if table == "end" or "end" in limit.path[2:] else "mapped_peak"
        now = gate_figures.places(analysis, moment)
        return _grown_places(now or [], data["places"][moment])
    return []


def _grown_causes(limit, analysis, data):
    def wanted(row):
        return limit.path[1] in ("total", row["syscall"], row["reason"])

    def key(row):
        return row["syscall"], row["reason"], row.get("call")
    before = {key(row): row["count"] for row in data["causes"]}
    grown = []
    for row in filter(wanted, causes(analysis)):
        was = before.get(key(row), 0)
        call = f", in {row['call']}" if row["call"] else ""
        grown.append((row["count"] - was, f"grew +{row['count'] - was:,} {row['syscall']}: "
                      f"{row['reason_text']}{call}: {was:,} -> {row['count']:,}"))
    return _most(grown)


def holders(analysis, moment):
    """Lines that say who holds the most at a moment, where places have names."""
    held = []
    for pair in pairing.nearest([], gate_figures.places(analysis, moment) or []):
        size = sum(row["requested_bytes"] for row in pair.after)
        if any(row["function"] for row in pair.after):
            held.append((size, f"{units.size(size)} held by {pairing.text(pair)}"))
    return _most(held)


def _most(grown):
    ordered = sorted((row for row in grown if row[0] > 0), key=lambda row: -row[0])
    return [text for more, text in ordered[:SHOWN] if more >= _WORTH * ordered[0][0]]


def _grown_places(now, before):
    grown = []
    for pair in pairing.nearest(before, now):
        was, size = (sum(row["requested_bytes"] for row in rows) for rows in (pair.before, pair.after))
        old = units.size(was) if pair.before else "new"
        grown.append((size - was, f"grew +{units.size(max(size - was, 0))} {pairing.text(pair)}: {old} "
                                  f"-> {units.size(size)}"))
    return _most(grown)
