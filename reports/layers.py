# SPDX-License-Identifier: MIT
#
# The ledger of the main stream over time as layers: what was in memory, up to what the kernel
# counts, where snapshots of resident pages tell it; else what was mapped. Data only, as the tables
# have it; figure_memory.py draws them.

import numpy

COLUMNS = 240       # each is as its end was
UNSEEN = 1 / 8      # of anonymous memory over time, no more came since snapshots, or what was mapped is shown
# What snapshots found and the kernel does not count any more is not there; as much as makes a rise
# worth a new snapshot is let pass.
TOLERANCE, TOLERANCE_BYTES = 1 / 32, 65536

# Colour, columns of resident.csv, name in the figure, name in a sentence: from the bottom up. What
# caches hold is known at snapshots only and would come and go, so it is part of what is free.
RESIDENT = (("requested", ("requested_bytes",), "requested", "requested by the program"),
            ("slack", ("slack_bytes",), "slack", "headers and rounding of blocks"),
            ("whole", ("free_bytes", "cached_bytes", "table_bytes"), "free", "free in the heap"),
            ("free", ("top_bytes",), "free at the top", "free at the top of the heap"),
            ("metadata", ("metadata_bytes",), "heap's tables", "the allocator's tables"))
# Above them, up to the kernel's own counts.
SINCE = ("since", "not looked at", "newer than the last look at its pages")
OUTSIDE = ("outside", "not the heap's", "not the heap's")
FILES = ("files", "files, shared", "code and files")

# The same of fragmentation.csv.
MAPPED = (("requested", ("requested_bytes",), "requested", "requested by the program"),
          ("slack", ("slack_bytes",), "slack", "headers and rounding of blocks"),
          ("cached", ("cached_bytes", "table_bytes"), "kept by caches", "kept by caches"),
          ("partial", ("partial_bytes",), "free, used pages", "free beside blocks"),
          ("whole", ("whole_touched_bytes",), "free pages", "free in whole pages"),
          ("purged", ("whole_purged_bytes",), "given back", "given back and still mapped"),
          ("untouched", ("whole_untouched_bytes",), "never used", "never used"),
          ("free", ("top_bytes",), "free at the top", "free at the top"),
          ("block", ("between_bytes",), "not in use", "mapped and not in use"),
          ("metadata", ("metadata_bytes",), "heap's tables", "the allocator's tables"))


def column(rows, key):
    return numpy.array([numpy.nan if row[key] is None else row[key] for row in rows], dtype=float)


def is_known(values):
    return len(values) > 0 and not numpy.isnan(values).all()


class Layers:
    """Bands of (colour, name, name in a sentence, bytes a column), from the bottom up; `above` are
    those of them that end where the kernel counted, by sample: (colour, times, bytes)."""

    def __init__(self, edges, bands, above=()):
        self.edges = edges
        self.bands = [band for band in bands if band[3].any()]
        self.tops = numpy.cumsum([values for *_, values in self.bands]
                                 or [numpy.zeros(COLUMNS)], axis=0)
        self.total = self.tops[-1]
        self.above = above

    def largest_at(self, moment):
        """(name in a sentence, its bytes, those of all) of the largest band at a time."""
        place = min(max(int(numpy.searchsorted(self.edges, moment)) - 1, 0), COLUMNS - 1)
        text, part = max(((text, values[place]) for _, _, text, values in self.bands),
                         key=lambda found: found[1], default=("", 0))
        return text, part, self.total[place]


def _amounts(rows, keys):
    return numpy.array([sum(row[key] or 0 for key in keys) for row in rows], dtype=float)


def _last(rows, moments):
    """For each moment the number of the last row by then, -1 if there is none."""
    return numpy.searchsorted([row["time_ns"] for row in rows], moments, side="right") - 1


def kind(analysis):
    """What they are of: "resident", "mapped", or "" if neither is known over time."""
    stream = analysis.get("main_stream")
    rows, samples = looks(analysis), analysis.rows("samples", stream)
    timeline = analysis.rows("timeline", stream)
    if rows and samples:
        counted = Counted(numpy.linspace(analysis.main_start_ns, timeline[-1]["time_ns"],
                                         COLUMNS + 1)[1:], rows, samples)
        if counted.since().sum() <= UNSEEN * counted.anonymous.sum():
            return "resident"
    known = [row for row in analysis.rows("fragmentation", stream) if "requested_bytes" in row]
    return "mapped" if any(row["mapped_bytes"] for row in known) else ""


def looks(analysis):
    """Rows of resident.csv; a snapshot that was cut has a part only."""
    return [row for row in analysis.rows("resident", analysis.get("main_stream"))
            if not row["cut"]]


def layers(analysis, span_ns):
    """None where nothing is known of them."""
    stream = analysis.get("main_stream")
    edges = numpy.linspace(*span_ns, COLUMNS + 1)
    what = kind(analysis)
    if what == "resident":
        return _resident(edges, looks(analysis), analysis.rows("samples", stream))
    if what == "mapped":
        rows = analysis.rows("fragmentation", stream)
        # Each row is the end of its part of the time.
        at = numpy.clip(numpy.searchsorted([row["time_ns"] for row in rows], edges[1:] - 1), 0,
                        len(rows) - 1)
        return Layers(edges, [(colour, name, text, _amounts(rows, keys)[at])
                             for colour, keys, name, text in MAPPED])
    return None


class Counted:
    """At some moments: what the kernel had counted by then, and the rows that were known."""

    def __init__(self, moments, rows, samples):
        sample_at, row_at = _last(samples, moments), _last(rows, moments)
        self.rows, self.row_at = rows, row_at
        self.rss, self.anonymous = (
            numpy.where(sample_at >= 0, column(samples, key)[sample_at], 0)
            for key in ("rss_bytes", "rss_anon_bytes"))
        # Where it counts less than the rows have, what they have is not there any more.
        self.known = (row_at >= 0) & (sample_at >= 0) & (_amounts(rows, ("all_bytes",))[row_at]
                                      <= self.anonymous * (1 + TOLERANCE) + TOLERANCE_BYTES)
        self.outside = numpy.minimum(self.of("outside_bytes"), self.anonymous)

    def of(self, *keys):
        return numpy.where(self.known, _amounts(self.rows, keys)[self.row_at], 0)

    def since(self):
        """What has come since the last snapshot is in no row yet."""
        heap = sum(self.of(*keys) for _, keys, _, _ in RESIDENT)
        return numpy.maximum(self.anonymous - self.outside - heap, 0)


def _resident(edges, rows, samples):
    """Up to what the kernel counts."""
    counted = Counted(edges[1:], rows, samples)
    bands = [(colour, name, text, counted.of(*keys)) for colour, keys, name, text in RESIDENT]
    files = numpy.maximum(counted.rss - counted.anonymous, 0)
    step = -(-len(samples) // (2 * COLUMNS))
    shown = samples[::step] + samples[len(samples) - 1:]
    moments = column(shown, "time_ns")
    at = Counted(moments, rows, samples)
    return Layers(edges, [*bands, (*SINCE, counted.since()), (*OUTSIDE, counted.outside), (*FILES, files)],
                 [(FILES[0], moments, at.rss), (OUTSIDE[0], moments, at.anonymous),
                  (SINCE[0], moments, at.anonymous - at.outside)])
