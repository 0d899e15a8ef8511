# SPDX-License-Identifier: MIT
#
# The verdict of the gate for GitHub Actions: annotations at the lines of the budget file, as workflow
# commands on standard output, and a table in the step's summary. A name from a trace can hold neither
# a second command nor markup.

import html
import os

import gate_text
import plain
from load import Failure, USAGE

# GitHub shows ten of a kind and step.
_SHOWN = 10
_KINDS = {"OVER": "error", "LOW": "error", "LESS": "error", "?": "error", "less": "notice"}


def _data(text):
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, code)
    return text


def _property(text):
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def annotation(kind, title, message, path=None, line=None):
    properties = {"file": path, "line": line, "title": title}
    words = ",".join(f"{name}={_property(plain.escaped(str(value)))}"
                     for name, value in properties.items() if value is not None)
    message = "\n".join(plain.escaped(row) for row in message.split("\n"))
    return f"::{kind} {words}::{_data(message)}"


def annotations(outcome):
    """One for each limit that is not kept; the last of too many says how many more there are."""
    lines = {"error": [], "notice": []}
    for result in outcome.results:
        kind = _KINDS.get(result.state)
        if kind:
            budget = result.limit.base is None
            message = "\n".join([outcome.sentence(result), *outcome.reasons(result)])
            lines[kind].append(annotation(
                kind, f"heapledger: {result.limit.name}", message,
                outcome.budget if budget else outcome.baseline_path,
                result.limit.line if budget else None))
    if outcome.code == 4 and not lines["error"]:
        lines["error"].append(annotation("error", "heapledger", outcome.last))
    for kind, rows in lines.items():
        if len(rows) > _SHOWN:
            more = f"{len(rows) - _SHOWN + 1} more are in the log of this step"
            lines[kind] = [*rows[:_SHOWN - 1], annotation(kind, "heapledger", more)]
    return lines["error"] + lines["notice"]


def summarise(outcome):
    """Appends to the file that GitHub names, if it names one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(summary(outcome))
    except OSError as error:
        raise Failure(USAGE, f"GITHUB_STEP_SUMMARY: {path}: {error.strerror}") from None


def _cell(text):
    return html.escape(plain.escaped(text))


def summary(outcome):
    """An HTML table, in which Markdown means nothing; without an empty line, which would end it."""
    rows = ["<table>", f"<caption>heapledger check: {_cell(outcome.last)}</caption>",
            "<tr><th></th><th>figure</th><th>limit</th><th>measured</th><th></th></tr>"]
    for result in outcome.results:
        limit, measured = gate_text.pair_text(result)
        name = f"{result.limit.name} (line {result.limit.line})" if result.limit.base is None \
            else f"{result.limit.name} (baseline)"
        why = "".join(f"<br>{_cell(text)}" for text in outcome.reasons(result))
        rows.append(f"<tr><td>{_cell(result.state)}</td><td>{_cell(name)}</td>"
                    f"<td>{_cell(limit)}</td><td>{_cell(measured)}</td>"
                    f"<td>{_cell(result.note)}{why}</td></tr>")
    return "\n".join([*rows, "</table>", "", ""])
