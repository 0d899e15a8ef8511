# SPDX-License-Identifier: MIT
#
# Text of others (names of programs, files, phases, and whatever a trace holds) that is to be shown:
# characters that a terminal would obey, that turn text round or that cannot be shown are made
# visible. For a page, page.py escapes HTML besides.

import unicodedata

# Controls, marks that are not seen, halves of pairs, separators of lines and paragraphs.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _is_plain(character):
    return unicodedata.category(character) not in _UNSEEN


def escaped(text):
    """For a terminal: each as \\x, \\u or \\U and its number."""
    return "".join(c if _is_plain(c) else number(ord(c)) for c in text)


def number(code):
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def replaced(text):
    """For a page: each as a replacement character."""
    return "".join(c if _is_plain(c) or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
