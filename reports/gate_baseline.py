# SPDX-License-Identifier: MIT
#
# The baseline of the gate: the figures of an accepted state, and what explains them, as a JSON file
# that is committed (docs/ci.md). Written whole or not at all. Makes limits of it, and says which
# causes and which places have grown since.

import difflib
import json
import os

import budget
import gate_figures
import output
import units
from load import Failure, NO_EVIDENCE, UNREADABLE

SCHEMA = "heapledger-baseline/1"

# Lost events are no matter of taste: they are in no baseline.
NAMES = tuple((f"{table}.{key}", *budget.KEYS[table][key])
              for table in ("syscalls", "peak", "end", "events") for key in budget.KEYS[table]
              if key != "lost")

SHOWN = 3
_PLACES_KEPT = 1000
_WORTH = 0.01  # of what grew most: less explains nothing
_LIKE = 0.75  # names at least as close are taken for the same function, renamed
_MOMENTS = ("mapped_peak", "end")


def make(runs):
    """The content of a baseline file."""
    first = runs.analyses[0]
    figures = {}
    for name, path, kind in NAMES:
        values = runs.values(budget.Limit(name, path, kind, 0, None))
        if None not in values:
            figures[name] = {"least": min(values), "most": max(values)}
    return {
        "schema": SCHEMA, "version": first.get("version"), "mode": first.get("mode"),
        "policy": first.get("policy"), "command": first.get("command"),
        "runs": len(runs.analyses), "figures": figures, "causes": causes(first),
        "places": {moment: (gate_figures.places(first, moment) or [])[:_PLACES_KEPT]
                   for moment in _MOMENTS},
    }


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
            file.write(json.dumps(data, indent=1) + "\n")
    return [name for name, _, _ in NAMES if name not in data["figures"]]


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
    figures = data.get("figures")
    if not isinstance(figures, dict) or not figures:
        return "no figures in it"
    known = {name for name, _, _ in NAMES}
    for name, figure in figures.items():
        if name not in known:
            return f"unknown figure {name!r}"
        if not isinstance(figure, dict) or not all(
                _is_count(figure.get(key)) for key in ("least", "most")):
            return f"{name}: least and most must be integers of 0 and more"
    if not _are_rows(data.get("causes"), ("syscall", "reason", "reason_text"), ("count",)):
        return "causes"
    places = data.get("places")
    if not isinstance(places, dict) or not all(
            _are_rows(places.get(moment), (), ("requested_bytes", "blocks"))
            for moment in _MOMENTS):
        return "places"
    return None


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_rows(rows, texts, counts):
    return isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(row.get(key), str) for key in texts)
        and all(_is_count(row.get(key)) for key in counts)
        and all(isinstance(row.get(key), str | None) for key in ("call", "function", "module"))
        for row in rows)


def limits(data, path, runs, tolerances):
    """Each figure of the baseline with its tolerance on top."""
    for key in "mode", "policy":
        for analysis in runs.analyses:
            if analysis.get(key) != data.get(key):
                raise Failure(NO_EVIDENCE, f"{path}: of {key} {data.get(key)}, the recording of "
                                           f"{key} {analysis.get(key)}: not to be compared")
    made = []
    for name, keys, kind in NAMES:
        if name in data["figures"]:
            base = data["figures"][name]["least"]
            made.append(budget.Limit(name, keys, kind, base + tolerances.of(name, base), None, False,
                                     base))
    return made


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


def _most(grown):
    ordered = sorted((row for row in grown if row[0] > 0), key=lambda row: -row[0])
    return [text for more, text in ordered[:SHOWN] if more >= _WORTH * ordered[0][0]]


def _grown_places(now, before):
    grown = []
    for place, was in pair(now, before):
        if not place["function"]:
            continue
        more = place["requested_bytes"] - (was["requested_bytes"] if was else 0)
        renamed = was and was.get("function") != place["function"]
        note = f" (was {was.get('function')})" if renamed else ""
        old = units.size(was["requested_bytes"]) if was else "new"
        grown.append((more, f"grew +{units.size(max(more, 0))} {place_text(place)}{note}: {old} -> "
                      f"{units.size(place['requested_bytes'])}"))
    return _most(grown)


def place_text(place):
    return f"{place['function']} in {place['module'] or 'unknown module'}"


def pair(now, before):
    """Each place with the one of the baseline that it is: of the same names, else of the same
    module and the closest name that nobody else has. None: it is new."""
    left = {(row.get("function"), row.get("module")): row for row in before}
    pairs = [(place, left.pop((place["function"], place["module"]), None)) for place in now]
    result = []
    for place, was in pairs:
        if not was and place["function"]:
            names = [function for function, module in left
                     if function and module == place["module"]]
            close = difflib.get_close_matches(place["function"], names, 1, _LIKE)
            was = left.pop((close[0], place["module"])) if close else None
        result.append((place, was))
    return result
