# SPDX-License-Identifier: MIT
#
# What report.py, check.py and compare.py share as commands: how arguments are read and errors are
# said, in the manner of the other commands: "heapledger: <command>: <message>", one line on stderr.

import argparse
import os
import signal
import sys

import plain
from load import Failure, USAGE


class Parser(argparse.ArgumentParser):
    def __init__(self, command, **arguments):
        super().__init__(prog=f"heapledger {command}", allow_abbrev=False, **arguments)
        self.command = command

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
