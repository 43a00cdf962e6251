"""The errors that a user can cause, each with the exit code of the command line."""


class InputError(ValueError):
    """A checkpoint, option or data set that cannot be used; the message says in one line what to do (exit code 2)."""


class MemoryLimitError(MemoryError):
    """The measurement needs more memory than ``--memory`` or the device allows (exit code 4)."""
