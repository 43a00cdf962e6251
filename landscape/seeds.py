"""Independent random streams: spawned from one seed by name, never added to it.

``seed + i`` makes the streams of neighbouring seeds overlap (seeds 0 and 1 then share all but one probe). A stream is
named here by a seed and a key, and NumPy's ``SeedSequence`` hashes both, so that stream ``("probe", 3)`` of seed 0 does
not depend on how many probes are drawn, and shares nothing with any stream of seed 1.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import InputError

if TYPE_CHECKING:
    import torch


def sequence(seed: int, *key: int | str) -> np.random.SeedSequence:
    """Return the seed sequence named by ``key``; strings enter by their CRC-32, which is stable across machines.

    Raises
    ------
    InputError
        If the seed is negative.
    """
    if seed < 0:
        raise InputError(f"a seed must be at least 0, not {seed}")
    words = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key)
    return np.random.SeedSequence(seed, spawn_key=words)


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return NumPy's generator of the stream named by ``key``."""
    return np.random.default_rng(sequence(seed, *key))


def generator(seed: int, *key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator of the stream named by ``key`` (draw on the CPU where devices must agree)."""
    import torch  # here, so that the half that works on stored results needs no torch

    state = int(sequence(seed, *key).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator(device=device).manual_seed(state)
