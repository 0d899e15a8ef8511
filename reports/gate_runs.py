# SPDX-License-Identifier: MIT
#
# Records a program several times for the gate, one after the other. The program's output goes to
# standard error, beside the verdict. A run that failed is no evidence of anything.

import os
import signal
import subprocess

import load
from load import Failure, NO_EVIDENCE, USAGE


_CANNOT_RUN = (126, 127)


def record(command, number, folder, arguments=()):
    """The traces of `number` runs of the command, in the folder."""
    traces = []
    for run in range(1, number + 1):
        trace = os.path.join(folder, f"run{run}")
        words = [load.program(), "record", "-q", *arguments, "-o", trace, "--", *command]
        try:
            status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=2, check=False).returncode
        except OSError as error:
            raise Failure(USAGE, f"cannot run {words[0]}: {error.strerror}") from None
        if status in (USAGE, *_CANNOT_RUN) and not os.path.exists(os.path.join(trace, "session.json")):
            raise Failure(USAGE)  # record has said why
        if status:
            raise Failure(NO_EVIDENCE, f"run {run} of {number}: {command[0]} {_ended(status)}: "
                                       "figures of a failed run say nothing")
        traces.append(trace)
    return traces


def _ended(status):
    number = -status if status < 0 else status - 128
    if status < 0 or status > 128 and number in signal.valid_signals():
        return f"was ended by signal {number}"
    return f"ended with status {status}"
