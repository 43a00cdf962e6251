"""Lists of numbers as one word of the command line."""

from landscape.errors import InputError


def parse_number_list(text: str) -> tuple[float, ...]:
    """Return the numbers of a comma-separated list, in which ``a,b,...,z`` goes on geometrically from a and b to z.

    Raises
    ------
    InputError
        If an entry is no number, or the continuation does not meet z.

    Examples
    --------
    >>> parse_number_list("8,16,...,64")
    (8.0, 16.0, 32.0, 64.0)
    """
    parts = [part.strip() for part in text.split(",")]
    numbers: list[float] = []
    for position, part in enumerate(parts):
        if part == "...":
            numbers += _continuation(numbers, parts[position + 1 :], text)
        else:
            numbers.append(_number(part, text))
    return tuple(numbers)


def parse_integer_list(text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list as :func:`parse_number_list` reads it."""
    numbers = parse_number_list(text)
    if any(number != int(number) for number in numbers):
        raise InputError(f"{text!r} has entries that are not whole numbers")
    return tuple(int(number) for number in numbers)


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        raise InputError(f"{text!r} is no list of numbers: {part!r} is none; write for example 8,16,...,512") from None
    if abs(number) == float("inf") or number != number:
        raise InputError(f"{text!r} has an entry that is not finite")
    return number


def _continuation(before: list[float], after: list[str], text: str) -> list[float]:
    """Return the numbers that ``...`` stands for, the one after it excluded."""
    if len(before) < 2 or not after or before[-2] <= 0 or before[-1] <= 0 or before[-1] == before[-2]:
        raise InputError(f"{text!r}: ... needs two different positive numbers before it and one after it")
    ratio, last, end = before[-1] / before[-2], before[-1], _number(after[0], text)
    numbers: list[float] = []
    while (last * ratio - end) * (1 if ratio > 1 else -1) < -1e-9 * abs(end):
        last *= ratio
        numbers.append(last)
    if abs(last * ratio - end) > 1e-9 * abs(end):
        raise InputError(f"{text!r}: going on with the ratio {ratio:g} does not meet {after[0]}")
    return numbers
