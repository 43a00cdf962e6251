"""What every command refuses alike: shared words with impossible values, and options that would have no effect."""

from collections.abc import Collection, Mapping

from landscape.errors import InputError

# Words that mean the same everywhere, with their least value.
LEAST = {"threads": 1, "seed": 0}


def check_least(name: str, value: object) -> None:
    """Raise :class:`InputError` if an option is below its least value; ``group_seed`` is a seed too."""
    word = name.rpartition("_")[2]
    if word in LEAST and isinstance(value, int) and value < LEAST[word]:
        raise InputError(f"{flag(name)} must be at least {LEAST[word]}, not {value}")


def refuse_unused(
    given: Collection[str], users: Mapping[str, Collection[str]], chosen: Collection[str], chooser: str
) -> None:
    """Refuse options that stand on the command line and that nothing would read.

    Parameters
    ----------
    given
        Names of the options that stand there.
    users
        Option -> the engines, estimators or rules that read it; what all of them read is left out.
    chosen
        Those of them that run.
    chooser
        The option that chose them.

    Raises
    ------
    InputError
        With the first such option, and what it needs.
    """
    for name, readers in users.items():
        if name in given and not set(readers) & set(chosen):
            raise InputError(
                f"{flag(chooser)} {' '.join(chosen)} cannot honour {flag(name)}, which needs {flag(chooser)} "
                f"{' or '.join(readers)}; leave it out"
            )


def flag(name: str) -> str:
    """Return an option's name as it stands on the command line."""
    return "--" + name.replace("_", "-")
