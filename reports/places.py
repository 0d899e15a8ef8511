# SPDX-License-Identifier: MIT
#
# Names of places in the code, as the analysis and the stacks have them. Used by content.py, flame.py
# and figure_map.py.

KEPT = {"cache": "freed, kept by a thread's cache", "fast": "freed, kept by a fast list",
        "lent": "freed, lent to a thread's cache", "table": "the allocator's own"}


def name(function, file, line):
    """parse (parse.c:12)"""
    file = (file or "").rsplit("/", 1)[-1]
    return f"{function} ({file}:{line})" if file and line else function


def site_name(site):
    """Of a place of the analysis (docs/analysis.md)."""
    if site["kept"]:
        return KEPT.get(site["kept"], site["kept"])
    if site["function"]:
        return name(site["function"], site["file"], site["line"])
    module = (site["module"] or "").rsplit("/", 1)[-1]
    if module and site.get("offset") is not None:
        return f"{module}+{site['offset']:#x}"
    return module or site["caller"] or "unknown"
