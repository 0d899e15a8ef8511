# SPDX-License-Identifier: MIT
#
# What report.py, check.py and compare.py share as commands: how arguments are read and errors are
# said, in the manner of the other commands: "heapledger: <command>: <message>", one line on stderr.
# Help fits a screen of 80 by 24; the manual has the rest.

import argparse
import difflib
import os
import signal
import sys

import plain
from load import Failure, USAGE

_COLUMNS = 79
_LIKE = 0.65  # closer to one of our options: it was meant


class _Help(argparse.HelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=24, width=_COLUMNS)

    def _format_action_invocation(self, action):
        """-o, --output FILE and not -o FILE, --output FILE."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


class Parser(argparse.ArgumentParser):
    """Help names the options; arguments are for the usage to explain."""

    def __init__(self, command, **arguments):
        super().__init__(prog=f"heapledger {command}", allow_abbrev=False, add_help=False,
                         formatter_class=_Help, **arguments)
        self.command = command
        self.names = []
        self.options = self.add_argument_group()  # of no name, so without a heading
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def add_argument(self, *names, **arguments):
        if not names[0].startswith("-"):
            return super().add_argument(*names, **{**arguments, "help": argparse.SUPPRESS})
        self.names += [name.removeprefix("--") for name in names if name.startswith("--")]
        return self.options.add_argument(*names, **arguments)

    def parse_args(self, args):
        """Before all else an option that is none: what else is missing may follow from it."""
        for word in args:
            name = word.split("=", 1)[0].removeprefix("--")
            if word.startswith("--") and name and name not in self.names:
                close = difflib.get_close_matches(name, self.names, 1, _LIKE)
                raise Failure(USAGE, f"unknown option {word}; did you mean --{close[0]}?" if close
                              else f"unknown option {word} (see heapledger {self.command} --help)")
        return super().parse_args(args)

    def error(self, message):
        say(self.command, f"{message}; see heapledger {self.command} --help")
        sys.exit(USAGE)


def say(command, message):
    sys.stderr.write(f"heapledger: {command}: {plain.escaped(message)}\n")


def _ended_by(number, _frame):
    """What runs for us is ended and temporary files are removed on the way out."""
    raise SystemExit(128 + number)


def run(command, main):
    """Runs main() and ends the process with its code, or with that of the failure it raised."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # None when it is closed
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    for number in signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) != signal.SIG_IGN:  # by nohup
            signal.signal(number, _ended_by)
    try:
        code = main()
        sys.stdout.flush()
    except Failure as failure:
        if failure.message:
            say(command, failure.message)
        code = failure.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + signal.SIGPIPE
    except OSError as error:  # those of trace, budget and outputs were Failures
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        say(command, f"{error.filename or 'standard output'}: {error.strerror or error}")
        code = USAGE
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
