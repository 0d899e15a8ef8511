# SPDX-License-Identifier: MIT
#
# Runs and records a program for the gate and for compare. What is run is ended with us, however we
# end; what cannot be recorded stops the command.

import os
import signal
import subprocess

import load
from load import Failure, NO_EVIDENCE, USAGE

_NO_PROGRAM = 127
_GRACE_SECONDS = 5


def run(words, **where):
    """The exit status, as a shell has it, and the rusage of the program with all children that it
    waited for. `where`: standard input and outputs, environment."""
    where.setdefault("stdin", subprocess.DEVNULL)
    try:
        child = subprocess.Popen(words, **where)
    except OSError as error:
        raise Failure(USAGE, f"{words[0]}: {error.strerror}") from None
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        _end(child)
        raise
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    return code if code >= 0 else 128 - code, usage


def _end(child):
    """Ctrl-C reached the program too; what does not end by itself then is ended."""
    for number in signal.SIGTERM, signal.SIGKILL:
        try:
            child.send_signal(number)
            child.wait(_GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def record(words, trace, arguments=(), **where):
    """The exit status of the program; what `record` has to say is on the standard error of it."""
    status, _ = run([load.program(), "record", "-q", *arguments, "-o", trace, "--", *words], **where)
    if not os.path.exists(os.path.join(trace, "session.json")):
        raise NotRecorded(USAGE if status in (USAGE, _NO_PROGRAM) else NO_EVIDENCE)
    return status


class NotRecorded(Failure):
    """Nothing was, and `record` has said why."""


def record_all(words, number, folder, arguments=()):
    """The traces of so many runs, one after the other, in the folder. The program's output goes to
    standard error, beside the verdict. A run that failed is no evidence of anything."""
    traces = []
    for turn in range(1, number + 1):
        trace = os.path.join(folder, f"run{turn}")
        status = record(words, trace, arguments, stdout=2)
        if status:
            raise Failure(NO_EVIDENCE, f"run {turn} of {number}: {words[0]} {_ended(status)}: "
                                       "figures of a failed run say nothing")
        traces.append(trace)
    return traces


def _ended(status):
    if status - 128 in signal.valid_signals():
        return f"was ended by signal {status - 128}"
    return f"ended with status {status}"
