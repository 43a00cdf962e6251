"""Whole measurements of attention, recurrent, convolutional and other networks, each against its dense curvature."""

import copy
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case

import landscape
from landscape.errors import InputError

SPECIAL = ("attention", "encoder_layer", "lstm", "convolution", "weighted_and_ignored", "dictionary")


def measured(case: Case, **options: Any) -> Any:
    given = {"largest": 5, "smallest": 3, "num_probes": 0} if options.get("engine") != "pyhessian" else {"largest": 4}
    return landscape.measure_spectrum(
        case.model, case.loss, case.data, case.mask, batch_size=4, weight_decay=case.decay, **(given | options)
    )


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "hessian") for name in SPECIAL] + [("attention", "ggn"), ("lstm", "jtj")]
)
def test_krylov_and_dense_agree_with_the_truth(name: str, kind: str) -> None:
    case = CASES[name]()
    truth = torch.linalg.eigvalsh(case.dense(kind)).flip(0).numpy()
    scale = np.abs(truth).max()
    dense = measured(case, engine="dense", curvature=kind, largest=None, smallest=None, num_probes=None)
    np.testing.assert_allclose(dense["eigenvalue"], truth, atol=1e-9 * scale)
    krylov = measured(case, curvature=kind, tolerance=1e-7)
    ends = np.r_[truth[:5], truth[-3:]]
    assert bool(krylov["converged"].all())
    np.testing.assert_allclose(krylov["eigenvalue"], ends, atol=1e-6 * scale)
    for result in (dense, krylov):
        assert bool((result["residual"] <= 1e-7 * scale).all())


@pytest.mark.parametrize("name", ["attention", "lstm"])
def test_every_option_works_on_attention_and_recurrent_networks(name: str) -> None:
    case = CASES[name]()
    H = case.dense("hessian")
    truth = torch.linalg.eigvalsh(H).flip(0).numpy()
    result = measured(
        case, num_probes=20, depth=30, deflate=True, cross_fit=True, per_layer=True, num_vectors=2, tolerance=1e-6
    )
    assert abs(float(result["trace"]) - truth.sum()) <= 4 * float(result["trace_se"]) + 1e-6 * np.abs(truth).max()
    v = result["eigenvector"].values[0]
    np.testing.assert_allclose(H.numpy() @ v, truth[0] * v, atol=1e-5 * np.abs(truth).max())
    start = 0
    for layer, size in zip(result["layer"].values, result["layer_num_params"].values.astype(int), strict=True):
        block = H[start : start + size, start : start + size]
        expected = float(torch.linalg.eigvalsh(block)[-1])
        found = float(result["layer_eigenvalue"].sel(layer=layer))
        assert found == pytest.approx(expected, abs=1e-5 * np.abs(truth).max()), layer
        start += size
    assert start == len(H)
    peer = measured(case, engine="pyhessian", tolerance=1e-6)
    largest = truth[np.argsort(-np.abs(truth))][: peer.sizes["eigen"]]
    np.testing.assert_allclose(np.sort(np.abs(peer["eigenvalue"])), np.sort(np.abs(largest)), rtol=1e-3)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", ["attention", "convolution"])
def test_the_model_of_the_caller_stays_as_it_was(name: str, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]()
    model = case.model.train()
    first, *others = model.parameters()
    first.grad = torch.ones_like(first)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    if fails:

        def broken(*_: Any) -> None:
            raise InputError("in the middle")

        monkeypatch.setattr(importlib.import_module("landscape.spectrum.measure"), "_facts", broken)
        with pytest.raises(InputError, match="in the middle"):
            measured(case)
    else:
        measured(case, engine="pyhessian")
        measured(case, num_probes=2, depth=3, dtype=torch.float32)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trained
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in others)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
