# SPDX-License-Identifier: MIT
#
# `heapledger report`: one HTML file, a PDF, or the figures alone, from a trace directory. Started by
# heapledger with its own path in HEAPLEDGER_BIN; the analyzer computes, this draws.

import os
import sys

sys.dont_write_bytecode = True  # an installed or read-only folder is left as it is

import command
import output
import plain
from load import Failure, OK, USAGE, load

HTML_MARK = b'name="generator" content="heapledger'
PDF_MARK = b"%heapledger\n"
FIGURE_MARK = b"heapledger"


def arguments(argv):
    parser = command.Parser("report", usage="heapledger report [OPTION...] DIR",
                            description="Writes an HTML report of a trace directory.")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="the report (default: report.html, or none with figures or a PDF)")
    parser.add_argument("--pdf", metavar="FILE", help="the report as PDF")
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
    import figure_sizes
    import figure_syscalls
    style.setup()
    return [figure_memory, figure_map, figure_fragmentation, figure_syscalls, figure_ledger,
            figure_sizes, figure_return]


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


def write_reports(analysis, modules, html, pdf):
    import content
    import style
    sections = content.sections(analysis, modules)
    if html:
        write_html(analysis, sections, html)
    style.close("all")
    if pdf:
        import pdf as sheets
        with output.replacing(pdf) as temporary:
            sheets.write(analysis, sections, temporary, PDF_MARK)
    for path in html, pdf:
        if path:
            print(plain.escaped(path))


def write_html(analysis, sections, path):
    import page
    text = page.render(analysis, sections)
    with output.replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def main():
    options = arguments(sys.argv[1:])
    path = options.output or (
        None if options.png or options.svg or options.pdf else "report.html")
    if path and options.pdf and os.path.realpath(path) == os.path.realpath(options.pdf):
        raise Failure(USAGE, f"{path}: is to be both the page and the PDF")
    for file, mark in (path, HTML_MARK), (options.pdf, PDF_MARK):
        if file:
            output.guard(file, mark, options.force)
    modules = figure_modules()
    analysis = load(options.directory, address_map=True, with_stacks=True, with_verdict=True)
    for kind, folder in ("png", options.png), ("svg", options.svg):
        if folder:
            write_figures(analysis, modules, folder, kind, options.force)
    if path or options.pdf:
        write_reports(analysis, modules, path, options.pdf)
    return OK


if __name__ == "__main__":
    command.run("report", main)
