"""Training by a function of the user's: ``trainer(model, start, mask, seed) -> state dicts``, one an epoch.

Start, every epoch, curves and end are written as this project's trainer writes them, so that everything else reads them
alike. That pruned weights are exactly zero is verified after every epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from landscape import checkpoints, loading, store
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.training import Branch, Trained, TrainOptions
from landscape.training.files import Control, Session


class OwnSession(Session):
    """A training that a function of the user's does; it is not resumed within, but done anew."""

    trainer: str = ""

    @cached_property
    def _options_json(self) -> str:
        return store.as_json({**json.loads(super()._options_json), "trainer": self.trainer})

    def run(self) -> Trained:
        """Hand the network, its masked start, the mask and the seed to the function, and write what it returns."""
        function = loading.import_object(self.trainer, "trainer")
        self._prepare()
        self._begin()
        start = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
        for epoch, state in enumerate(function(self.model, start, dict(self.mask), self.data_seed), start=1):
            verify(state, self.mask, self.trainer)
            checkpoints.load_state(self.model, state, self.options.model)
            self._record()
            self._save_epoch(epoch, stopped=False)
        return self._finish()


def verify(state: Mapping[str, Tensor], mask: Mapping[str, Tensor], trainer: str) -> None:
    """Raise unless every pruned weight is zero."""
    for name, m in mask.items():
        if name not in state or bool((state[name].cpu()[~m.bool()] != 0).any()):
            raise InputError(f"the trainer {trainer} left pruned weights of {name} other than zero; apply the mask")


def train_with(
    trainer: str, options: TrainOptions, folder: Path, branch: Branch, data: tuple[Data, Data | None]
) -> Trained:
    """Train a cell by the user's function, or find it finished."""
    if branch.subspace is not None:
        raise InputError("--mask-rule none trains in a subspace, which --trainer cannot; leave one of them out")
    session = OwnSession(options, folder, branch, Control())
    session.trainer = trainer
    return session.finished(data) or session.run()
