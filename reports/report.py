# SPDX-License-Identifier: MIT
#
# `heapledger report`: one HTML file, or the figures alone, from a trace directory. Started by
# heapledger with its own path in HEAPLEDGER_BIN; the analyzer computes, this draws.

import os
import sys

sys.dont_write_bytecode = True  # an installed or read-only folder is left as it is

import command
import output
import plain
from load import Failure, OK, USAGE, load

HTML_MARK = b'name="generator" content="heapledger'
FIGURE_MARK = b"heapledger"


def arguments(argv):
    parser = command.Parser("report", description="Writes an HTML report of a trace directory.")
    parser.add_argument("directory", metavar="DIR", help="trace directory of heapledger record")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="the report (default: report.html, none if only figures are "
                             "asked for)")
    parser.add_argument("--png", metavar="DIR", help="write the figures alone, as PNG, into DIR")
    parser.add_argument("--svg", metavar="DIR", help="the same as SVG")
    parser.add_argument("--force", action="store_true",
                        help="replace files that heapledger did not write")
    return parser.parse_args(argv)


def figure_modules():
    import style
    import figure_fragmentation
    import figure_ledger
    import figure_map
    import figure_memory
    import figure_return
    import figure_syscalls
    style.setup()
    return [figure_memory, figure_map, figure_fragmentation, figure_syscalls, figure_ledger,
            figure_return]


def write_figures(analysis, modules, folder, kind, force):
    import style
    save = {"png": style.png, "svg": style.svg}[kind]
    output.stranger(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Failure(USAGE, f"{folder}: {error.strerror}") from None
    for module in modules:
        output.guard(os.path.join(folder, f"{module.NAME}.{kind}"), FIGURE_MARK, force)
    for module in modules:
        figure = module.draw(analysis)
        path = os.path.join(folder, f"{module.NAME}.{kind}")
        if figure is None:
            command.say("report", f"{path}: not written: {module.TITLE.lower()}: not measured")
            continue
        with output.replacing(path) as temporary:
            save(figure, temporary)
        style.close(figure)


def write_html(analysis, modules, path):
    import page
    text = page.render(analysis, modules)
    with output.replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def main():
    options = arguments(sys.argv[1:])
    path = options.output or (None if options.png or options.svg else "report.html")
    if path:
        output.guard(path, HTML_MARK, options.force)
    modules = figure_modules()
    analysis = load(options.directory, address_map=True)
    for kind, folder in ("png", options.png), ("svg", options.svg):
        if folder:
            write_figures(analysis, modules, folder, kind, options.force)
    if path:
        write_html(analysis, modules, path)
        print(plain.escaped(path))
    return OK


if __name__ == "__main__":
    command.run("report", main)
