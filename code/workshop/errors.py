"""The exception whose message is meant for the person at the keyboard.

Pure Python that also runs inside the published page, for `Layout` raises it.
"""

import sys


class UserError(ValueError):
    """Bad input: one sentence that says what, why and what to do."""


def fail(message, code=2):
    """Print one sentence on stderr and exit with `code`."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def full_disk(error):
    """Return the sentence for a disk without room, None for another error."""
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    where = f" for {error.filename}" if error.filename else ""
    return (
        f"the disk has no room{where} ({error.strerror}): make some, or "
        "write to another one, and run this again"
    )


def one_sentence(function):
    """Turn a `UserError` of `function` into one sentence and exit code 2.

    So does a full disk, and a path that cannot be used: too long, a folder,
    closed to this user.
    """
    from functools import wraps  # which MicroPython does not have

    @wraps(function)
    def guarded(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except UserError as error:
            fail(str(error))
        except OSError as error:
            if message := full_disk(error):
                fail(message)
            if error.errno is None:  # a sentence of ours
                fail(str(error))
            if error.filename is None:  # of no file: a closed pipe, say
                raise
            name = str(error.filename)
            name = name if len(name) < 60 else f"{name[:57]}..."
            fail(f"{name} cannot be used ({error.strerror}): name another")

    return guarded
