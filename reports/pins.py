# SPDX-License-Identifier: MIT
#
# Whose blocks keep memory that is free from going back: places in the code by what they pin, and the
# blocks at the end of the break. Called by content.py; the figures are the analyzer's `moments`.

import flame
import places
import units
from blocks import Section, Table, Text, Unfolding

SHOWN = 15


def section(analysis):
    stacks = {row.number: row.frames for row in flame.rows_of(analysis) or [] if row.number}
    blocks = _places(analysis, stacks) + _holders(analysis, stacks)
    return Section("What pins pages", blocks) if blocks else None


def _places(analysis, stacks):
    """At the last moment there is with any."""
    moment = next((each for each in reversed(analysis.get("moments", []))
                   if any(site["pinned_bytes"] >= 1 for site in each.get("sites", []))), None)
    if not moment:
        return []
    every = [site for site in moment["sites"] if site["pinned_bytes"] >= 1][:SHOWN]
    heads = (("blocks of", False), ("free bytes pinned", True), ("pages held alone", True),
             ("blocks", True), ("requested", True), ("age", True), ("goes at once", True),
             ("at the heap's end", True), ("by malloc_trim", True))
    rows = [(places.site_name(site), units.size(int(site["pinned_bytes"])),
             units.count(site["alone_pages"]), units.count(site["blocks"]),
             "–" if site["kept"] else units.size(site["requested_bytes"]), _ages(site, moment),
             *(_freed(site, key) for key in ("mapped_bytes", "top_bytes", "trim_bytes")))
            for site in every]
    rest = moment["sites_total"] - len(rows)
    note = [Text(f"{units.counted(rest, 'more place')} {'pins' if rest == 1 else 'pin'} no more than "
                 f"the last of these.")] if rest > 0 else []
    return [
        Text(f"Free bytes that cannot go back, {_when(moment)}, because a block lies on the same page; "
             "shared evenly where several do. Age: since the newest and the oldest of the blocks were "
             f"made{_began_late(analysis)}."),
        Text("The last three columns are what freeing all blocks of the place would return, if no "
             "cache kept them. At once: mappings of their own. At the heap's end: pages above the next "
             "block of others, once what is free there has reached the trim threshold. By "
             "malloc_trim: pages between other blocks; no free returns these, malloc_trim(0) does."),
        Unfolding("Places in the code", Table(heads, rows), _callers(every, stacks), None), *note]


def _holders(analysis, stacks):
    """The highest blocks of the break at the end: those that more comes down with."""
    end = next((each for each in reversed(analysis.get("moments", []))
                if each["moment"] == "end"), {})
    free, kept, every = end.get("break", {}).get("top_bytes", 0), [], []
    for number, holder in enumerate(end.get("break", {}).get("holders", []), 1):
        gain = holder["returned_bytes"] - free
        free = max(free, holder["returned_bytes"])
        if gain > 0 or number == 1:
            every.append((number, holder))
    if not every:
        return []
    heads = (("block of", False), ("size", True), ("age", True), ("address", True),
             ("free at the end without it and all above", True))
    rows = [(places.site_name(holder),
             units.size(holder["chunk_bytes" if holder["kept"] else "size_bytes"]),
             _age(holder["allocated_at_ns"], end), holder["address"],
             units.size(holder["returned_bytes"])) for _, holder in every]
    return [
        Text("The break comes down only past its highest blocks. "
             f"{units.size(end['break']['top_bytes'])} lies free above them at the end. The numbers count from the top, as in the heap by "
             "address; a block that frees no page more is left out."),
        Unfolding("The highest blocks of the break", Table(heads, rows),
                  _callers([holder for _, holder in every], stacks),
                  [number for number, _ in every])]


def _when(moment):
    return "at the end" if moment["moment"] == "end" else f"after {units.time(moment['at_ns'])}"


def _began_late(analysis):
    late = any(process.get("began_late") for process in analysis.get("processes", [])
               if process.get("stream") == analysis.get("main_stream"))
    return "; of those that were there before the recording, since it began" if late else ""


def _ages(site, moment):
    """From the youngest to the oldest."""
    if site["oldest_at_ns"] is None:
        return "–"
    ages = [_age(site[key], moment) for key in ("youngest_at_ns", "oldest_at_ns")]
    return ages[0] if ages[0] == ages[1] else " – ".join(ages)


def _age(since, moment):
    return "–" if since is None else units.time(max(moment["at_ns"] - since, 0))


def _freed(site, key):
    return "–" if site["freed"] is None else units.size(site["freed"][key])


def _callers(every, stacks):
    return [[places.name(*frame) for frame in reversed(stacks.get(one["stack"], ()))]
            for one in every]
