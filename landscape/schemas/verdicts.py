"""The words of tables of verdicts."""

from landscape.schemas.words import Variable, label, number

_VERDICT: dict[str, Variable] = {
    "statistic": number("1", "the measured number that the verdict is about", "claim", "*"),
    "effect": number("1", "by how much the claim is met, in the unit of its statistic", "claim", "*"),
    "noise": number("1", "standard error of the effect", "claim", "*"),
    "margin": number("1", "the effect's distance from its threshold, in units of the noise", "claim", "*"),
    "verdict": label("holds, fails or not resolved", "claim", "*"),
    "reason": label("why it is not resolved, or what it rests on", "claim", "*"),
}

PRECONDITIONS: dict[str, Variable] = {
    **_VERDICT,
    **{f"level_{name}": variable for name, variable in _VERDICT.items()},
    "statement": label("the claim in words", "claim"),
    "source": label("who made the claim", "claim"),
}
