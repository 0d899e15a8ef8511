# SPDX-License-Identifier: MIT
#
# What the first screen of the report draws: the ledger at the peak and at the end, row by row, and
# resident memory over time. Data and words only; page.py and pdf.py draw them.

import units

CACHED = "freed, kept by caches"

# Colour, keys of moments[].ledger, what the row is called. A row that is null is in no other: what
# caches hold then counts as free.
ROWS = (("requested", ("requested_bytes",), "requested"),
        ("slack", ("slack_bytes",), "headers and rounding"),
        ("cached", ("cached_bytes", "table_bytes"), CACHED),
        ("partial", ("partial_bytes",), "free beside blocks"),
        ("whole", ("whole_pages.touched_bytes",), "free, whole pages"),
        ("purged", ("whole_pages.purged_bytes",), "given back, still mapped"),
        ("untouched", ("whole_pages.untouched_bytes",), "never used"),
        ("free", ("top_bytes",), "free at the top"),
        ("block", ("between_bytes",), "mapped, not in use"),
        ("metadata", ("metadata_bytes",), "allocator's tables"))

# Without moments: of an allocator that was observed, and of what the peak and the end alone tell.
PLAIN_ROWS = (("requested", ("requested_bytes",), "requested"),
              ("slack", ("slack_bytes",), "headers and rounding"),
              ("free", ("free_bytes",), "free, still mapped"),
              ("metadata", ("metadata_bytes",), "allocator's tables"))

UNKNOWN = ("other", "unknown")


class Bar:
    """One moment: rows of (colour, name, bytes) that add up to what is mapped."""

    def __init__(self, heading, at_ns, ledger, rows, caches_known=True):
        self.heading, self.at_ns, self.mapped = heading, at_ns, ledger["mapped_bytes"]
        self.caches_known = caches_known
        self.values = {name: _sum(ledger, keys) for _, keys, name in rows}
        self.rows = [(colour, name, self.values[name]) for colour, _, name in rows
                     if self.values[name]]
        rest = self.mapped - sum(value for *_, value in self.rows)
        if rest > 0:
            self.rows.append((*UNKNOWN, rest))
            self.values[UNKNOWN[1]] = rest

    def title(self):
        moment = "" if self.at_ns is None else f" ({units.time(self.at_ns)})"
        return f"{self.heading}{moment}: {units.size(self.mapped)} mapped"

    def value(self, name):
        """As text: a row that is not known is not empty."""
        value = self.values.get(name, 0)
        if value is None:
            return "unknown"
        return ("" if self.caches_known or name != CACHED else "at least ") + units.size(value)

    def sentence(self):
        parts = ", ".join(f"{name} {self.value(name)}" for _, name, _ in self.rows)
        return f"{self.title()}: {parts}"


def _sum(ledger, keys):
    values = []
    for key in keys:
        value = ledger
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        values += [] if value is None else [value]
    return sum(values) if values else None


def bars(analysis):
    """At the peak of what was mapped, and at the end; fewer if they are not known."""
    moments = {moment["moment"]: moment for moment in analysis.get("moments", [])}
    found = [Bar(heading, moments[kind]["at_ns"], moments[kind]["ledger"], ROWS,
                 moments[kind]["caches_known"])
             for kind, heading in (("mapped_peak", "At the peak"), ("end", "At the end"))
             if kind in moments and moments[kind]["ledger"]["mapped_bytes"]]
    if found:
        return found
    plain = ((analysis.get("peak.at_mapped"), analysis.get("peak.mapped_at_ns"), "At the peak"),
             (analysis.get("end"), None, "At the end"))
    return [Bar(heading, at_ns, ledger, PLAIN_ROWS) for ledger, at_ns, heading in plain
            if ledger and ledger.get("mapped_bytes")]


def row_names(shown):
    """(colour, name) of the rows that any of the bars has, in the bars' order."""
    order = [(colour, name) for colour, _, name in (*ROWS, *PLAIN_ROWS)] + [UNKNOWN]
    present = {(colour, name) for bar in shown for colour, name, _ in bar.rows}
    return [row for row in dict.fromkeys(order) if row in present]


class Resident:
    """Resident memory of the largest process, as it was sampled."""

    def __init__(self, analysis):
        stream = analysis.get("main_stream")
        rows = [row for row in analysis.rows("samples", stream) if row["rss_bytes"] is not None]
        self.points = [(row["time_ns"], row["rss_bytes"]) for row in rows]
        self.peak = analysis.get("peak.rss_bytes")
        self.mapped = [(row["time_ns"], row["mapped_bytes"])
                       for row in analysis.rows("timeline", stream)
                       if None not in (row["time_ns"], row["mapped_bytes"])]
        self.largest = max([value for _, value in self.points + self.mapped], default=0)
        moments = [moment for moment, _ in self.points + self.mapped]
        self.start_ns, self.end_ns = min(moments, default=0), max(moments, default=0)

    def sentence(self):
        if not self.points:
            return "Resident memory was not measured."
        return (f"Resident: at most {units.size(self.peak)}, at the end "
                f"{units.size(self.points[-1][1])}; the whole process, as the kernel counts it.")
