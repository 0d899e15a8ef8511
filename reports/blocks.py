# SPDX-License-Identifier: MIT
#
# What a report is made of: sections of plain blocks, which page.py makes HTML of and pdf.py sheets.

from collections import namedtuple

Section = namedtuple("Section", "title blocks")
Text = namedtuple("Text", "text kind", defaults=[""])       # kind: "", "scope", "missing"
Table = namedtuple("Table", "heads rows foot", defaults=[None])  # heads: (text, is a number)
Drawing = namedtuple("Drawing", "module figure caption")
Flame = namedtuple("Flame", "flame")                        # of flame.py
Bars = namedtuple("Bars", "title rows colour")              # rows: (name, value as text, 0 to 1)
Unfolding = namedtuple("Unfolding", "title table stacks numbers")  # for each row the names of its
#                                             stack, and its number in other parts of the report
Findings = namedtuple("Findings", "items first")            # first: the number of the first one
