# SPDX-License-Identifier: MIT
#
# Files the reports leave behind: written beside their place and renamed into it, so that nothing
# is ever half written, and never over a file which heapledger did not make (unless forced).

import contextlib
import os
import stat
import tempfile

from load import Failure, USAGE

_HEAD_BYTES = 4096
_TAIL_BYTES = 64  # a PDF has its mark there


def guard(path, mark, force, command="report"):
    """Refuses a path that holds something else than an earlier output with `mark` in its head or at its end."""
    stranger(path)
    if os.path.isdir(path):
        raise Failure(USAGE, f"{path}: is a directory")
    if os.path.exists(path) and not os.path.isfile(path):
        raise Failure(USAGE, f"{path}: is not a regular file")  # a rename would remove it
    if force or not os.path.lexists(path):
        return
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(-min(os.path.getsize(path), _TAIL_BYTES), os.SEEK_END)
            head += file.read()
    except OSError as error:
        raise Failure(USAGE, f"{path}: {error.strerror}") from None
    if mark not in head:
        raise Failure(USAGE, f"{path}: exists and was not written by heapledger {command}: "
                             "choose another name"
                             + ("" if command == "check" else " or give --force"))


def stranger(path):
    """Refuses a link of another user: in a directory that others write to anybody can lay one."""
    try:
        status = os.lstat(path.rstrip("/") or path)
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        raise Failure(USAGE, f"{path}: is a link of another user")


@contextlib.contextmanager
def replacing(path):
    """Yields the name of a new file in the same directory; renamed to `path` if all went well."""
    temporary = None
    try:
        folder = os.path.dirname(path) or "."
        handle, temporary = tempfile.mkstemp(prefix=".heapledger-", dir=folder)
        os.close(handle)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise Failure(USAGE, f"{path}: {error.strerror}") from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask():
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
