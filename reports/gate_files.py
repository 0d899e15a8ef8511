# SPDX-License-Identifier: MIT
#
# The verdict of the gate for programs: JSON, JUnit XML and the Bencher metric format (docs/ci.md).
# Each file is written whole or not at all, and replaces only its own kind.

import json
import os
import xml.etree.ElementTree as xml

import output
import plain

SCHEMA = "heapledger-check/1"
_SUITE = "heapledger check"
_VERDICTS = ("kept", "exceeded", None, None, "not enough evidence")

# What each kind has in its head, so that nothing else is replaced.
_MARKS = {"json": SCHEMA.encode(), "junit": _SUITE.encode(), "bencher": b'"heapledger.'}


def guard(options):
    """Before anything is measured: what cannot be written is said at once."""
    for kind, mark in _MARKS.items():
        path = getattr(options, kind)
        if path:
            output.guard(path, mark, False, "check")


def write(options, outcome):
    for kind, make in (("json", _json), ("junit", _junit), ("bencher", _bencher)):
        path = getattr(options, kind)
        if path:
            text = make(outcome)
            with output.replacing(path) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(text)


def _clean(value):
    """Bytes that are no UTF-8 are made visible; JSON itself escapes the rest."""
    return plain.escaped(value) if isinstance(value, str) else value


def _json(outcome):
    results = []
    for result in outcome.results:
        limit = result.limit
        results.append({
            "name": _clean(limit.name), "source": "budget" if limit.base is None else "baseline",
            "line": limit.line, "unit": {"size": "bytes"}.get(limit.kind, limit.kind),
            "bound": "least" if limit.least else "most", "limit": limit.limit,
            "baseline": limit.base, "measured": result.measured,
            "runs": outcome.runs.values(limit), "state": _state(result), "note": result.note,
            "reasons": outcome.reasons(result)})
    document = {
        "schema": SCHEMA, "verdict": _VERDICTS[outcome.code], "exit_status": outcome.code,
        "summary": _clean(outcome.last), "complete": outcome.runs.complete,
        "budget": _clean(outcome.budget), "baseline": _clean(outcome.baseline_path),
        "command": [_clean(word) for word in outcome.command], "results": results}
    return json.dumps(document, indent=1) + "\n"


def _state(result):
    return {"OVER": "over", "LOW": "under", "LESS": "loose", "less": "less",
            "?": "unknown"}.get(result.state, result.state)


def _junit(outcome):
    cases = []
    for result in outcome.results:
        case = xml.Element("testcase", classname=_class(result), name=_clean(result.limit.name))
        tag = {"OVER": "failure", "LOW": "failure", "LESS": "failure",
               "?": "error"}.get(result.state)
        if tag:
            child = xml.SubElement(case, tag, message=outcome.sentence(result),
                                   type=_state(result))
            child.text = "\n".join(outcome.reasons(result))
        cases.append(case)
    if outcome.code == 4 and not any(result.state == "?" for result in outcome.results):
        case = xml.Element("testcase", classname="heapledger.evidence", name="evidence")
        xml.SubElement(case, "error", message=_clean(outcome.last), type="unknown")
        cases.append(case)
    counts = {tag: str(sum(case.find(tag[:-1]) is not None for case in cases))
              for tag in ("failures", "errors")}
    suite = xml.Element("testsuite", name=_SUITE, tests=str(len(cases)), **counts)
    suite.extend(cases)
    root = xml.Element("testsuites", name=_SUITE)
    root.append(suite)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _class(result):
    return "heapledger.budget" if result.limit.base is None else "heapledger.baseline"


def _bencher(outcome):
    """Measures of one benchmark, the program; with several runs the lowest and the highest too."""
    measures = {}
    for result in outcome.results:
        if result.measured is None or not outcome.runs.complete:
            continue
        values = outcome.runs.values(result.limit)
        measure = {"value": result.measured}
        if len(values) > 1:
            measure |= {"lower_value": min(values), "upper_value": max(values)}
        measures["heapledger." + _clean(result.limit.name)] = measure
    name = os.path.basename(outcome.command[0]) if outcome.command else "program"
    return json.dumps({_clean(name): measures}, indent=1) + "\n"
