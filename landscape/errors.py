"""The errors that a user can cause, each with the exit code of the command line."""


class InputError(ValueError):
    """A checkpoint, option or data set that cannot be used; the message says in one line what to do (exit code 2)."""


class MemoryLimitError(MemoryError):
    """The measurement needs more memory than ``--memory`` or the device allows (exit code 4).

    Attributes
    ----------
    needed
        Bytes that the part that failed would have needed, 0 where that is not known.
    """

    def __init__(self, message: str = "", needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.needed)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell memory errors: torch has its own for devices and a plain RuntimeError for the host."""
    told = type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)
    return told or isinstance(error, MemoryError)
