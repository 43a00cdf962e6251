"""``python -m landscape.pruning gfs``: select subnetworks of all sizes from the checkpoints of a two-layer network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from landscape import checkpoints, cli, runs, store
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.checkpoints.problems import DEVICES, DTYPES
from landscape.cli import option
from landscape.datasets import EXAMPLES, NORMALIZE, SPLITS, Data
from landscape.errors import InputError
from landscape.models import TwoLayer
from landscape.pruning import gfs_subnetworks
from landscape.pruning.gfs import Path as Selection
from landscape.pruning.gfs_convex import SMOOTHNESS
from landscape.pruning.gfs_measure import measure
from landscape.pruning.gfs_networks import importance_of, loss_of, neurons_of
from landscape.pruning.gfs_sweep import QUANTITY, SelectionFlags

DESCRIPTION = "Select subnetworks greedily from the checkpoints of two-layer networks, with bounds and rivals."
EXAMPLE = (
    "python -m landscape.pruning gfs --model two_layer --width 1000 --data mnist_binary --loss mse "
    "--checkpoints data/runs/two_layer --sizes 8,16,...,512"
)


@dataclass(frozen=True)
class NetworkOptions:
    """Network and data."""

    checkpoints: Path = option(help="run, training directory or checkpoint", metavar="RUN|DIR|FILE.pt")
    model: str | None = option(None, help="network: two_layer (default: the checkpoint's)", metavar="NAME")
    model_arg: tuple[str, ...] = option((), help="arguments of the network", metavar="K=V")
    width: int | None = option(None, help="number N of neurons (default: the checkpoint's)", metavar="N")
    data: str | None = option(None, help="data (default: the checkpoint's)", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    split: str = option("train", help="part of the data", choices=SPLITS)
    num_examples: int | None = option(None, help="examples to select on (default: all)", metavar="M")
    examples: str | None = option(
        None, help="which examples (default: first for named data, else random)", choices=EXAMPLES
    )
    normalize: str | None = option(
        None, help="scaling of the inputs (default: the checkpoint's, else standard for named data)", choices=NORMALIZE
    )
    loss: str | None = option(
        None, help="loss (default: the checkpoint's, else cross_entropy)", choices=tuple(SMOOTHNESS)
    )
    dtype: str = option("float32", help="precision of the products; sums and scores are float64", choices=tuple(DTYPES))
    device: str = option("auto", help="device", choices=DEVICES)
    seed: int = option(0, help="names random examples and subsets", metavar="S")

    def of_problem(self) -> ProblemOptions:
        """Return these options as those of a problem."""
        width = () if self.width is None else (f"width={self.width}",)
        return ProblemOptions(
            model=self.model,
            model_arg=(*self.model_arg, *width),
            data=self.data,
            split=self.split,
            num_examples=self.num_examples,
            examples=self.examples,
            normalize=self.normalize,
            seed=self.seed,
        )


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    out: Path | None = option(None, help="result (default: gfs.nc beside the checkpoints)", metavar="FILE.nc")
    subnetworks: Path | None = option(None, help="also write the subnetworks as a run for studies", metavar="RUN")
    keep: int | None = option(None, help="picks of these subnetworks (default: the largest size)", metavar="K")
    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    memory: float | None = option(None, help="most memory for the activations", metavar="GIB")
    force: bool = option(False, help="replace a different result at the same path")
    quiet: bool = option(False, help="print nothing but the path")


@dataclass(frozen=True)
class Arguments:
    """All options."""

    network: NetworkOptions
    selection: SelectionFlags
    output: OutputOptions


def main(argv: Sequence[str]) -> int:
    """Select from every checkpoint, print the losses and write them."""
    arguments, _ = cli.parse_arguments(cli.Parser("pruning gfs", DESCRIPTION, EXAMPLE), Arguments, argv)
    network, output = arguments.network, arguments.output
    threads = cli.apply_threads(output.threads)
    _check(arguments)
    trainings = [[File.of(path) for path in paths] for paths in find_checkpoints(network.checkpoints)]
    first = checkpoints.read(trainings[0][0].path)
    data = checkpoints.open_data(first, network.of_problem())
    asked = {
        "checkpoints": [[file.sha256 for file in files] for files in trainings],
        "data": data.sha256,
        "network": asdict(network) | {"checkpoints": None},
        "selection": asdict(arguments.selection),
        "threads": threads,
    }
    fingerprint = store.fingerprint({"quantity": QUANTITY, **asked})
    beside = network.checkpoints if network.checkpoints.is_dir() else network.checkpoints.parent
    out = output.out or beside / "gfs.nc"
    result = store.find_existing(out, fingerprint, output.force)
    if result is None or output.subnetworks is not None:
        started = time.perf_counter()
        result = measure_cells(trainings, data, arguments, fingerprint)
        result.attrs |= {
            "fingerprint": fingerprint,
            "options": store.as_json(asked),
            "checkpoint_sha256": ",".join(str(file.sha256) for files in trainings for file in files),
            "data_sha256": data.sha256,
            "world_size": 1,
            "threads": threads,
            "seconds": time.perf_counter() - started,
        }
        store.write(result, out, QUANTITY, force=True)
    else:
        cli.log(f"{out} holds this result already", output.quiet)
    cli.show(describe(result), output.quiet)
    cli.show_paths(out, output.subnetworks)
    return cli.DONE


def _check(arguments: Arguments) -> None:
    """Refuse a size of subnetworks, or a memory, that means nothing."""
    keep, largest = arguments.output.keep, arguments.selection.sizes[-1]
    if keep is not None and arguments.output.subnetworks is None:
        raise InputError("--keep belongs to --subnetworks")
    if keep is not None and not 1 <= keep <= largest:
        raise InputError(f"--keep must lie between 1 and the largest size, {largest}, not {keep}")
    cli.memory_bytes(arguments.output.memory, 0)


def find_checkpoints(path: Path) -> list[list[Path]]:
    """Return the checkpoint files of every training: those of a file, of a directory, or of level 0 of a run."""
    if path.is_file():
        return [[path]]
    if (path / "run.json").is_file():
        run = runs.read(path)
        folders = [run.folder(cell) for cell in run.cells() if cell.level == 0 and cell.method == "imp"]
        found = [sorted(folder.glob("*.pt")) for folder in folders]
    else:
        found = [sorted(path.glob("*.pt"))]
    found = [[p for p in files if p.name != "state.pt"] for files in found]
    if not found or not all(found):
        raise InputError(f"there are no checkpoints in {path}; give a run, the directory of a training, or one file")
    return found


@dataclass(frozen=True)
class File:
    """A checkpoint file: its checksum, and the training step and repeat that it gives."""

    path: Path
    sha256: str | None
    step: int | None
    replicate: int | None

    @classmethod
    def of(cls, path: Path) -> File:
        """Read what is needed to plan, and let the weights go."""
        checkpoint = checkpoints.read(path)
        return cls(path, checkpoint.sha256, checkpoint.step, checkpoint.replicate)


def measure_cells(
    trainings: Sequence[Sequence[File]], data: Data, arguments: Arguments, fingerprint: str
) -> xr.Dataset:
    """Return the selections from all checkpoints of all trainings, one cell each; write the subnetworks if asked to."""
    network = arguments.network
    loss = network.loss or checkpoints.read(trainings[0][0].path).loss or "cross_entropy"
    if loss not in SMOOTHNESS:
        raise InputError(f"neurons are selected under {', '.join(SMOOTHNESS)}, not {loss!r}; choose --loss")
    cells = []
    bar: tqdm[int]
    with cli.progress(sum(map(len, trainings)), "checkpoints", arguments.output.quiet) as bar:
        for number, files in enumerate(trainings):
            by_step = {i if file.step is None else file.step: file for i, file in enumerate(files)}
            replicate = number if files[0].replicate is None else files[0].replicate
            results = []
            for level, step in enumerate(sorted(by_step)):
                checkpoint = checkpoints.read(by_step[step].path)
                measured, path = _measure_one(checkpoint, data, loss, arguments)
                results.append(measured)
                if arguments.output.subnetworks is not None:
                    size = arguments.output.keep or arguments.selection.sizes[-1]
                    run = gfs_subnetworks.open_run(arguments.output.subnetworks, fingerprint, size)
                    gfs_subnetworks.save(run, checkpoint, path, (replicate, level, size), network.seed)
                bar.update()
            cell = xr.concat(results, xr.Variable("step", sorted(by_step))).expand_dims(cell=[number])
            cells.append(cell.assign(replicate=("cell", [replicate])))
    if any(not np.array_equal(cell["step"], cells[0]["step"]) for cell in cells):
        raise InputError("the trainings have checkpoints at different steps; select from them one by one")
    joined = xr.concat(cells, "cell").transpose("cell", "step", ...)
    joined = joined.assign(num_neurons=joined["num_neurons"].isel(step=0, drop=True))
    labels = {"num_examples": len(data), "input_size": data.x[0].numel(), "smoothness": SMOOTHNESS[loss], "arm": "data"}
    joined = joined.assign({name: ("cell", np.full(len(cells), value)) for name, value in labels.items()})
    bounds = arguments.selection.measuring(network.seed).greedy_bounds
    device = checkpoints.resolve_device(network.device).type
    return joined.assign_attrs(greedy_bounds=int(bounds), loss=loss, device=device, dtype=network.dtype)


@torch.no_grad()
def _measure_one(checkpoint: Checkpoint, data: Data, loss: str, arguments: Arguments) -> tuple[xr.Dataset, Selection]:
    """Return the selections from one checkpoint, and their path."""
    network = arguments.network
    device, dtype = checkpoints.resolve_device(network.device), DTYPES[network.dtype]
    model = checkpoints.model_of(checkpoint, network.of_problem(), data)
    if not isinstance(model, TwoLayer):
        raise InputError("neurons are selected from two_layer networks; gfs_channels selects channels of others")
    model.to(device, dtype)
    memory = None if arguments.output.memory is None else cli.memory_bytes(arguments.output.memory, 0)
    neurons = neurons_of(model, data.x.to(device, dtype), memory)
    targets = loss_of(loss, data.y, model.output.out_features, neurons.hidden)
    order = np.argsort(-importance_of(model), kind="stable")
    result, path = measure(neurons, targets, arguments.selection.measuring(network.seed), order)
    return result.assign(num_neurons=neurons.num_neurons), path


def describe(result: xr.Dataset) -> str:
    """Return one line for each checkpoint: the dense loss and those of the selected and of random neurons."""
    sizes = [int(k) for k in result["size"].values]
    lines = [f"{'replicate':>9s} {'step':>8s} {'dense':>10s}  " + " ".join(f"{f'k={k}':>10s}" for k in sizes)]
    for i in range(result.sizes["cell"]):
        for step in result["step"].values:
            at = result.isel(cell=i).sel(step=step)
            losses = " ".join(f"{float(v):10.5g}" for v in at["loss"].values)
            lines.append(f"{int(at['replicate']):9d} {int(step):8d} {float(at['dense_loss']):10.5g}  {losses}")
    return "\n".join(lines)
