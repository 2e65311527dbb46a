"""The lock on the folder of a run: while a training writes into it, no other training may."""

import contextlib
import errno
import os
import socket
from pathlib import Path

from minimask.errors import InputError

LOCK = ".lock"
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what systems say of a lock somebody holds


class FolderLock:
    """Holds a folder until it is closed; raises InputError if another process holds it.

    The operating system keeps the lock and drops it when the process ends, however it ends. The file that carries it
    says who holds it. On a file system without locks, nothing is locked.
    """

    def __init__(self, folder):
        self.path = Path(folder) / LOCK
        self.file = None
        while True:
            try:
                file = open(self.path, "a+b")
            except OSError as error:
                raise InputError(f"{folder}: cannot be written to ({error.strerror or error})") from error
            if not _lock(file):
                text = _holder(file)
                file.close()
                raise InputError(
                    f"{folder}: another training is writing into this folder{f' ({text})' if text else ''}; wait until "
                    "it has ended, or choose another folder (--output)"
                )
            if _still_there(file, self.path):
                break
            file.close()  # its holder ended and deleted it since
        self.file = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()

    def close(self):
        """Let others write into the folder."""
        if self.file is None:
            return
        with contextlib.suppress(OSError):  # Windows deletes no open file
            self.path.unlink()
        with contextlib.suppress(OSError):
            self.file.close()
        self.file = None


def refuse_locked(folder):
    """Raises InputError if another process holds the folder."""
    if (Path(folder) / LOCK).exists():
        FolderLock(folder).close()


def holder(folder):
    """Who is writing into a folder, such as "process 123 on HOST"; None if nobody is. Changes nothing."""
    path = Path(folder) / LOCK
    try:
        file = open(path, "r+b" if os.access(path, os.W_OK) else "rb")
    except OSError:
        return None
    with file:
        return None if _lock(file) else _holder(file)


def _lock(file):
    """Try to take the lock on an open file. Returns False if another process has it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # far behind the text, which others may then read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN
    return True


def _holder(file):
    """What the file says about who holds the lock; "" if that cannot be read."""
    try:
        file.seek(0)
        return file.read(200).decode(errors="replace").strip()
    except OSError:
        return ""


def _still_there(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False
