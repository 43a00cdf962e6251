"""What is said of a network before it is measured: a wrong preprocessing or wrong data show in loss and accuracy."""

from __future__ import annotations

from collections import Counter

from landscape import parallel
from landscape.batches import target_of
from landscape.problem import Problem


def describe_point(problem: Problem) -> list[str]:
    """Return the line with loss and accuracy of what is about to be measured, and a warning at chance level."""
    accuracy, chance = problem.accuracy(), chance_level(problem)
    shown = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    lines = [f"loss {problem.loss():.6g}{shown}"]
    if accuracy is not None and chance is not None and accuracy <= chance:
        lines.append(
            f"warning: accuracy {accuracy:.4f} is at chance level ({chance:.4f}); is the preprocessing that of "
            "training (--normalize), and is this the right data?"
        )
    return lines


def chance_level(problem: Problem) -> float | None:
    """Return the accuracy of always answering the most frequent class, plus three standard errors."""
    labels = [target_of(batch).flatten() for batch in problem.batches]
    known = not any(target.is_floating_point() for target in labels)
    counts = Counter(label for target in labels for label in target.tolist() if label >= 0) if known else None
    ranks = parallel.gather(counts)
    everywhere = sum((part for part in ranks if part is not None), Counter[int]())
    if None in ranks or not everywhere:
        return None
    total = everywhere.total()
    share = max(everywhere.values()) / total
    return share + 3 * (share * (1 - share) / total) ** 0.5
