"""What a user's mistake becomes: one exception family, one block on stderr, one exit code.

Exit codes: 0 ok, 1 our bug, 2 usage or config, 3 data, 4 checkpoint, 5 numeric divergence or
disagreement, 6 resource; 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something that the user can mend; the message says what, where, found, expected, the fix."""

    exit_code: int = 1


class ConfigError(UserError):
    """A wrong command line or config."""

    exit_code = 2


class DataError(UserError):
    """Missing, damaged or contradictory data."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is damaged, foreign, or does not fit."""

    exit_code = 4


class NumericError(UserError):
    """A loss or gradient that is not finite, or two results that should agree and do not."""

    exit_code = 5


class ResourceError(UserError):
    """Memory, disk, or a process that died."""

    exit_code = 6


class RunInterruptedError(UserError):
    """A signal ended the run; the message says whether its state was saved."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def guard(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command and turn a user's mistake into one block on stderr.

    Args:
        main: The command; takes the arguments, returns its exit code.
        arguments: The command line without the program's name.

    Returns:
        The exit code. Errors of our own keep their traceback and end with exit code 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what its encoding lacks, as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main(arguments)
    except UserError as error:
        word = "stopped" if isinstance(error, RunInterruptedError) else "error"
        process = os.environ.get("RANK", "0")  # of several, all may say the same
        origin = "" if process == "0" else f"[process {process}] "
        sys.stderr.write(f"{origin}{word}: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name:  # a part of what is there
            raise
        sys.stderr.write(
            f"error: the package {error.name} is missing in the environment {sys.prefix}\n"
            f"  fix: {sys.executable} -m pip install -r requirements.txt\n"
            "  or activate the environment that has it\n"
        )
        return ConfigError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # `train.py ... | head`: the reader left, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
