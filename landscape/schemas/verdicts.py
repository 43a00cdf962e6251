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

_TAU = ("scalar", "level")

RELATE: dict[str, Variable] = {
    "tau_error": number("1", "Kendall's tau with the test error", *_TAU),
    "tau_loss": number("1", "Kendall's tau with the train loss", *_TAU),
    "tau_partial": number("1", "Kendall's tau with the test error given the train loss", *_TAU),
    "tau_partial_se": number("1", "standard error of tau_partial over the methods", *_TAU),
    "tau_partial_lo": number("1", "lower end of the interval of tau_partial", *_TAU),
    "tau_partial_hi": number("1", "upper end of the interval of tau_partial", *_TAU),
    "p_value": number("1", "two-sided p-value of tau_partial by permutation of the methods", *_TAU),
    "num_networks": number("1", "networks of the level of which the scalar is known", *_TAU),
    "effect": number("1", "mean of tau_partial over the levels", "scalar"),
    "noise": number("1", "standard error of the effect over the methods", "scalar"),
    "effect_p_value": number("1", "two-sided p-value of the effect by permutation of the methods", "scalar"),
    "verdict": label("whether the scalar predicts the test error beyond the train loss", "scalar"),
}
