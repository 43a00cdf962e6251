"""What of a spectrum is measured, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from landscape.cli import option, refuse_unused
from landscape.errors import InputError

CURVATURES = ("hessian", "ggn", "jtj")
ENGINES = ("krylov", "dense", "pyhessian")

# Defaults of the Krylov engine; they shrink where the problem is smaller.
LARGEST, SMALLEST, NUM_PROBES, DEPTH = 20, 5, 10, 80

# Options that not every engine reads.
READ_BY = {
    **dict.fromkeys(("smallest", "num_probes", "depth", "deflate", "cross_fit"), ("krylov",)),
    "largest": ("krylov", "pyhessian"),
    "per_layer": ("krylov", "dense"),
}

# Eigenpairs that have not converged after so many products are returned as they are, flagged.
PRODUCTS_PER_PAIR, PRODUCTS_SPARE = 10, 150
# What spectra of trained networks take, with a margin: k pairs from the top took 20 + 3.6 k products (k = 1 to 100,
# 7,000 to 270,000 parameters, dense and pruned); the first few from the bottom, at the edge of a bulk, 98 to 175. Both
# ends share one Krylov space, so the slower one counts.
TOP_SPARE, TOP_PAIR, BOTTOM_SPARE, BOTTOM_PAIR = 30, 4.3, 165, 5
# Of one layer: its largest eigenvalue.
LAYER_PAIR = 45


@dataclass(frozen=True)
class SpectrumOptions:
    """Spectrum."""

    curvature: str = option("hessian", choices=CURVATURES, help="Hessian, generalised Gauss-Newton matrix or J'J / N")
    largest: int | None = option(None, metavar="K", help="eigenvalues from the top (default: 20, or all)")
    smallest: int | None = option(None, metavar="K", help="eigenvalues from the bottom (default: 5; pyhessian: 0)")
    num_probes: int | None = option(None, metavar="P", help="random vectors of the density (default: 10)")
    depth: int | None = option(None, metavar="M", help="Krylov steps for each random vector (default: 80)")
    tolerance: float = option(
        1e-4, metavar="T", help="residual of a converged pair, relative to the largest |eigenvalue|"
    )
    num_vectors: int = option(0, metavar="K", help="eigenvectors to store, from the top")
    engine: str = option("krylov", choices=ENGINES, help="krylov, the exact dense twin, or PyHessian's power iteration")
    per_layer: bool = option(False, help="add a table of the layers' diagonal blocks")
    deflate: bool = option(False, help="take the converged eigenpairs out of the probes: same products, less error")
    cross_fit: bool = option(False, help="add Rayleigh quotients on data that did not choose the vector")


@dataclass(frozen=True)
class Plan:
    """The sizes that a measurement of n coordinates really uses."""

    largest: int
    smallest: int
    num_probes: int
    depth: int

    @property
    def num_pairs(self) -> int:
        """Eigenpairs from both ends."""
        return self.largest + self.smallest

    def products(self, n: int, options: SpectrumOptions, num_layers: int = 0) -> int:
        """Return the planned products: an upper bound for spectra like those of trained networks."""
        if options.engine == "dense":
            return 2 * n
        pairs = self.pair_products(n)
        layers = num_layers * (LAYER_PAIR + 2 * max(self.num_probes, 2)) if options.per_layer else 0
        halves = pairs + self.num_pairs if options.cross_fit else 0
        return pairs + self.num_probes * self.depth + halves + layers

    def pair_products(self, n: int) -> int:
        """Return the planned products of one search for eigenpairs, the final residuals included."""
        if not self.num_pairs:
            return 0
        top = TOP_SPARE + TOP_PAIR * self.largest if self.largest else 0
        bottom = BOTTOM_SPARE + BOTTOM_PAIR * self.smallest if self.smallest else 0
        return min(math.ceil(max(top, bottom)), self.most_products(n))

    def most_products(self, n: int) -> int:
        """Return the products after which a search for eigenpairs gives up, verification included."""
        return min(PRODUCTS_PER_PAIR * self.num_pairs + PRODUCTS_SPARE, 3 * n + 2 * self.num_pairs)


def plan(options: SpectrumOptions, n: int) -> Plan:
    """Fill in the defaults for n active coordinates, and refuse what cannot be honoured.

    Raises
    ------
    InputError
        If more eigenvalues are asked for than there are, the two ends overlap, or the engine does not know an option.
    """
    _check(options, n)
    largest = min(LARGEST, n) if options.largest is None else options.largest
    room = n - largest
    smallest = min(SMALLEST, room) if options.smallest is None else options.smallest
    if smallest > room:
        raise InputError(
            f"{largest} eigenvalues from the top and {smallest} from the bottom overlap (there are {n}); ask for fewer"
        )
    if options.engine == "dense":
        return Plan(n, 0, 0, 0)
    if options.engine == "pyhessian":
        if largest == 0:
            raise InputError("--engine pyhessian needs --largest 1 or more")
        return Plan(largest, 0, 0, 0)
    probes = NUM_PROBES if options.num_probes is None else options.num_probes
    if not largest + smallest + probes:
        raise InputError("nothing is left to measure: ask for eigenvalues (--largest) or for a density (--num-probes)")
    return Plan(largest, smallest, probes, min(DEPTH if options.depth is None else options.depth, n))


def check_given(options: SpectrumOptions, given: Collection[str]) -> None:
    """Refuse what stands on the command line and would have no effect; none (0) of something can always be honoured.

    Raises
    ------
    InputError
        With the name of the flag and what it needs.
    """
    given = {name for name in given if name not in ("smallest", "num_probes") or getattr(options, name)}
    refuse_unused(given, READ_BY, (options.engine,), "engine")


def _check(options: SpectrumOptions, n: int) -> None:
    for name in ("largest", "smallest", "num_probes", "depth", "num_vectors"):
        value = getattr(options, name)
        flag = "--" + name.replace("_", "-")
        if value is not None and value < 0:
            raise InputError(f"{flag} must not be negative, but is {value}")
        if value is not None and value > n and name not in ("num_probes", "depth"):
            raise InputError(f"{flag} {value} asks for more eigenpairs than there are: {n} active parameters")
    if options.depth == 0 and options.num_probes != 0:
        raise InputError("--depth must be at least 1; use --num-probes 0 for no density")
    if not 0 < options.tolerance < 1:
        raise InputError(f"--tolerance must lie between 0 and 1, but is {options.tolerance}")
    for name, known in (("curvature", CURVATURES), ("engine", ENGINES)):
        if getattr(options, name) not in known:
            raise InputError(f"unknown {name} {getattr(options, name)!r}; use one of {', '.join(known)}")
    refused = {
        "krylov": [],
        "dense": ["num_probes", "depth", "deflate", "cross_fit"],
        "pyhessian": ["smallest", "num_probes", "depth", "deflate", "cross_fit", "per_layer"],
    }[options.engine]
    for name in refused:
        if getattr(options, name):
            raise InputError(f"--engine {options.engine} cannot honour --{name.replace('_', '-')}; leave it out")
    if options.engine == "pyhessian" and options.curvature != "hessian":
        raise InputError("PyHessian knows only the Hessian; use --engine krylov for ggn and jtj")
    shown = n if options.engine == "dense" or options.largest is None else options.largest
    if options.num_vectors > shown:
        raise InputError(f"--num-vectors {options.num_vectors} exceeds the {shown} eigenvalues from the top")
