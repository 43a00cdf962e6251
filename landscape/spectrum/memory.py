"""How ``--memory`` is divided between data, products and vectors, so that the peak stays below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from landscape import dense, lanczos, parallel, stochastic
from landscape.batches import Batch, batch_length
from landscape.curvature.layout import cut, is_cuttable
from landscape.errors import MemoryLimitError
from landscape.footprint import footprint, storage_bytes
from landscape.problem import Problem
from landscape.spectrum.layers import LAYER, MOMENT_DEPTH
from landscape.spectrum.options import Plan, SpectrumOptions

# What a process takes after its imports whatever it measures: what tracing imports and compiles (70 MiB), late imports
# (25), file and figure (20), and what the allocator keeps of what was freed.
OVERHEAD = 208 * 2**20
# The weights: in the file, in the model, in the private copy, at the point, and as float64 sums of a gradient.
COPIES = 6
# Vectors take what they can use, and of what is left at most so many fifths.
FIFTHS = {"krylov": 3, "dense": 4, "pyhessian": 3}
GIB = 2**30


@dataclass(frozen=True)
class Shares:
    """Bytes of the two large things.

    Attributes
    ----------
    products
        Graphs, residuals and blocks of the curvature-vector products.
    vectors
        Krylov bases, eigenvectors, or the full matrix; passes over the data when these are done.
    """

    products: int
    vectors: int


def divide(problem: Problem, options: SpectrumOptions, sizes: Plan, memory: int) -> Shares:
    """Divide the memory of a measurement before its work begins.

    Raises
    ------
    MemoryLimitError
        If the least that the measurement needs is more: it says how much would do.
    """
    number = problem.dtype.itemsize
    # All ranks must divide alike, as their Krylov spaces are one.
    data = max(parallel.gather(storage_bytes(problem.batches)))
    fixed = OVERHEAD + data + COPIES * number * problem.num_params_total
    least, most = _vectors(options, sizes, problem.num_params, number)
    left, fifths = memory - fixed, FIFTHS[options.engine]
    if left * fifths // 5 < least:
        needed = fixed + -(-least * 5 // fifths)
        raise MemoryLimitError(
            f"this needs at least {needed / GIB:.3g} GiB ({fixed / GIB:.3g} for the program, the data and the weights, "
            f"{least / GIB:.3g} for vectors), but {memory / GIB:.3g} GiB are given; raise --memory, or ask for fewer "
            "eigenpairs, a lower --depth or fewer examples",
            needed,
        )
    vectors = min(left * fifths // 5, max(most, left // 5))  # passes over the data take their place in the end
    return Shares(left - vectors, vectors)


def _vectors(options: SpectrumOptions, sizes: Plan, n: int, number: int) -> tuple[int, int]:
    """Return the least and the most bytes of vectors that a measurement can use."""
    # Vectors that are stored are turned into float64, composed into a file, and written.
    stored = 3 * 8 * options.num_vectors * n
    if options.engine == "dense":
        exact = dense.COPIES * 8 * n * n + stored
        return exact, exact
    k, depth = sizes.num_pairs, sizes.depth
    chosen = lanczos.EigenOptions(largest=sizes.largest, smallest=sizes.smallest)
    pairs = (lanczos.least_vectors(chosen, n), lanczos.most_vectors(chosen, n)) if k else (0, 0)
    probe = depth + stochastic.WORK_VECTORS
    probes = (k + probe, k + probe * sizes.num_probes) if sizes.num_probes else (0, 0)
    needs = [pairs, probes]
    if options.cross_fit:  # the eigenvectors of all the data are held meanwhile
        needs.append((k + pairs[0], k + pairs[1]))
    if options.per_layer:
        layer = k + max(lanczos.least_vectors(LAYER, n), MOMENT_DEPTH + stochastic.WORK_VECTORS)
        needs.append((layer, layer))
    least, most = (max(need) * n * number + stored for need in zip(*needs, strict=True))
    return least, most


def fitting(problem: Problem, work: Callable[[Problem], object], memory: int) -> Problem:
    """Return the same problem with its batches cut so that ``work``, which goes through them, fits the memory.

    Parameters
    ----------
    work
        Works on this rank's batches one after the other, without sums over ranks; it is done for six examples.

    Raises
    ------
    MemoryLimitError
        If not even one example fits, or examples that belong together do not.
    """
    largest = max(problem.batches, key=batch_length, default=None)
    if largest is None:
        return problem
    length, together = batch_length(largest), not is_cuttable(problem, largest)

    def of_the_first(size: int) -> object:
        return work(replace(problem, batches=(largest if together else cut(largest, size)[0],)))

    taken = footprint(of_the_first, 1 if together else length)
    if taken.of(length) <= memory:
        return problem
    size = 0 if together else taken.fits(memory)
    if size < 1:
        raise MemoryLimitError(
            f"a pass over {length if together else 1} examples needs {taken.of(length if together else 1) / GIB:.3g} "
            f"GiB, but {memory / GIB:.3g} GiB are left for it; raise --memory or lower --batch-size"
        )
    pieces: list[Batch] = []
    for batch in problem.batches:
        pieces += cut(batch, size)
    return replace(problem, batches=tuple(pieces))
