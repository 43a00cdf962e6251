"""Keyword options of the ``measure_...`` functions, sorted into the dataclasses that take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from landscape.errors import InputError

Options = TypeVar("Options")
GIB = 2**30


class Keywords:
    """Keyword options, each taken once.

    Parameters
    ----------
    options
        As the function was given them.
    function
        Its name, for the message about an option that nothing takes.
    """

    def __init__(self, options: Mapping[str, Any], function: str) -> None:
        self.rest, self.function = dict(options), function

    def take(self, cls: type[Options], **more: Any) -> Options:
        """Return a dataclass with those of its fields that were given, and ``more`` of them unless they were."""
        # The type variable cannot say that these classes are dataclasses.
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(**{**more, **{name: self.rest.pop(name) for name in names if name in self.rest}})

    def effort(self, cls: type[Options]) -> Options:
        """Return how to run: ``seed``, ``memory`` (given in GiB) and ``quiet``, which is true unless given."""
        chosen: dict[str, Any] = {"quiet": True}
        chosen |= {name: self.rest.pop(name) for name in ("seed", "quiet") if name in self.rest}
        if (memory := self.rest.pop("memory", None)) is not None:
            chosen["memory"] = int(memory * GIB)
        return cls(**chosen)

    def finish(self) -> None:
        """Refuse what is left.

        Raises
        ------
        InputError
            If an option was taken by nothing.
        """
        if self.rest:
            raise InputError(f"unknown option {next(iter(self.rest))!r}; see help(landscape.{self.function})")
