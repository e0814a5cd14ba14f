"""The first lines of a command: from here on a signal ends it cleanly, whatever it is at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from actionfusion.errors import OutputError, printable
from actionfusion.process import find_home, leave, open_standard_streams, stopping, was_stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 if all went well, 1 if something failed, 2 for wrong usage.

    Args:
        arguments: the words of the command line; None takes those of this process, which is to end with the command.
    """
    if arguments is not None:
        with stopping():
            return _run(list(arguments))[0]
    code, stopped = 1, True
    with stopping(leaves=True) as done, suppress(KeyboardInterrupt):
        open_standard_streams()
        find_home()
        code, stopped = _run(sys.argv[1:])
        done(code)
    if stopped:
        done(code)
        leave(code)
    return code


def _run(words: list[str]) -> tuple[int, bool]:
    """Give the exit code, and whether somebody ended the command."""
    try:
        from actionfusion.command_line import run  # noqa: PLC0415  It takes longer than all before it.

        try:
            return run(words), False
        finally:
            sys.stdout.flush()
    except BaseException as error:
        if was_stopped() or isinstance(error, KeyboardInterrupt):
            return _fail("stopped"), True
        if isinstance(error, BrokenPipeError):
            return 1, False  # the reader of our output has gone, for example `head`
        if isinstance(error, OutputError):
            return _fail(f"error: {error}"), False
        if isinstance(error, OSError) and "--debug" not in words:
            reason = error.strerror or str(error) or type(error).__name__
            return _fail(f"error: {error.filename or 'the system'}: {reason}; --debug shows where."), False
        raise


def _fail(text: str) -> int:
    sys.stderr.write(f"{printable(text)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
