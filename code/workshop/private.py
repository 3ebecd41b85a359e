"""Folders and locks whose names others can guess, and that they cannot use.

Under a shared folder such as /tmp anyone can lay a folder, a file or a link
before we come, with programs in it that would then run as us.  So a folder
is made for its user alone, and is refused if it is not as it was made.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workshop.errors import UserError

ALONE = 0o077
"""The permissions that nobody else has in a folder that we make."""
WRITING = 0o022
"""Those that let others change what is there."""


def make(folder: Path, remedy: str, shut: int = WRITING) -> Path:
    """Return a folder for this user alone, made unless it is there.

    Raises:
        UserError: as `check`, or it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if not os.path.lexists(folder):
            raise UserError(
                f"{folder} cannot be made ({error.strerror}): {remedy}"
            ) from None
    check(folder, remedy, shut)
    return folder


def check(folder: Path, remedy: str, shut: int = WRITING) -> None:
    """Refuse a folder that others could have laid or may change.

    One that is not there is as good.

    Args:
        folder: whose owner, kind and permissions count; above it nobody
            may exchange what belongs to another.
        remedy: the end of the sentence, what a person can do instead.
        shut: the permissions that others must not have.

    Raises:
        UserError: it is a link, a file, of another user, or open to others.
    """
    try:
        seen = os.lstat(folder)
        above = [os.stat(each) for each in folder.parents]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{folder} cannot be looked at ({error.strerror}): {remedy}"
        ) from None
    mode = stat.S_IMODE(seen.st_mode)
    loose = (
        each.st_mode & stat.S_IWOTH and not each.st_mode & stat.S_ISVTX
        for each in above
    )
    if stat.S_ISLNK(seen.st_mode):
        why = "is a link, and whoever laid it chose where it leads"
    elif not stat.S_ISDIR(seen.st_mode):
        why = "is no folder"
    elif seen.st_uid != os.getuid():
        why = f"belongs to user {seen.st_uid} and not to you"
    elif mode & shut:
        why = f"is open to others (its mode is {mode:04o})"
    elif any(loose):
        why = "lies in a folder where anyone can exchange it"
    else:
        return
    raise UserError(f"{folder} {why}: {remedy}")


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the block that names `path`.

    A link is not followed, and nothing is written into the file.

    Raises:
        UserError: it is no plain file of this user, or cannot be opened.
    """
    remedy = "remove it, for only you may hold this lock"
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        raise UserError(
            f"the lock {path} cannot be opened ({error.strerror}): {remedy}"
        ) from None
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.getuid():
            raise UserError(f"the lock {path} is no file of yours: {remedy}")
        os.fchmod(handle, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
