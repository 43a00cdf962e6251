"""The words of the results: every variable of every quantity with its dims, dtype, units and long name.

A result is an :class:`xarray.Dataset`. Its data variables must be in the table of its quantity (``SCHEMAS``) and its
coordinates in ``COORDINATES``; a quantity that was not measured is absent, not NaN. Curvature is that of the *mean*
loss, in nat / parameter^2. Uncertainty is a variable of its own: ``<name>_se``, ``<name>_lo``, ``<name>_hi``.
"""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from landscape.schemas.connectivity import (
    ALIGNMENT,
    BARRIER_MATRIX,
    CONNECTIVITY,
    CONVERGENCE,
    CURVES,
    PRUNING_STEPS,
    RENEWAL,
    SURFACE,
    TRAINING,
)
from landscape.schemas.dimension import DIMENSION
from landscape.schemas.gfs import CHILDREN, GFS
from landscape.schemas.pruning import COMPARISON, IMC, PRUNING
from landscape.schemas.spectrum import MATCHED, SPECTRUM, TRAJECTORY
from landscape.schemas.verdicts import PRECONDITIONS, RELATE
from landscape.schemas.volume import CALIBRATION, VOLUME
from landscape.schemas.words import COORDINATES, LABELS, MODEL, Variable

__all__ = ["COORDINATES", "LABELS", "SCHEMAS", "Variable", "check", "describe", "table"]

SCHEMAS: dict[str, dict[str, Variable]] = {
    "dimension": DIMENSION,
    "training": TRAINING,
    "spectrum": {**SPECTRUM, **MATCHED},
    "connectivity": CONNECTIVITY,
    "curves": CURVES,
    "trajectory": TRAJECTORY,
    "barrier_matrix": BARRIER_MATRIX,
    "convergence": {**MODEL, **CONVERGENCE, **MATCHED},
    "alignment": ALIGNMENT,
    "surface": SURFACE,
    "preconditions": PRECONDITIONS,
    "relate": RELATE,
    "renewal": RENEWAL,
    "pruning_steps": PRUNING_STEPS,
    "gfs": GFS,
    "children": CHILDREN,
    "pruning": PRUNING,
    "imc": IMC,
    "comparison": COMPARISON,
    "volume": {**VOLUME, **MATCHED},
    "calibration": CALIBRATION,
}


# Quantities whose variables keep their names in a study; of two that share a name the later one is prefixed.
PLAIN = ("spectrum", "connectivity", "curves", "barrier_matrix", "renewal", "volume", "dimension")


def _study() -> dict[str, Variable]:
    """Return the words of all results of a run together: every variable over the labels of the results.

    Flags and counts are padded, hence numbers; of two quantities that share a name one is prefixed by its quantity.
    """
    words: dict[str, Variable] = {}
    for quantity, known in sorted(SCHEMAS.items(), key=lambda item: [*PLAIN, *SCHEMAS].index(item[0])):
        for name, variable in known.items():
            dtype = "str" if variable.dtype == "str" else "float64"
            labelled = Variable(
                (*(d for d in variable.dims if d != "*"), "*"), dtype, variable.units, variable.long_name
            )
            words.setdefault(name, labelled)
            words[f"{quantity}_{name}"] = labelled
        words[f"{quantity}_seconds"] = Variable(("*",), "float64", "s", f"seconds that measuring {quantity} took")
        words[f"measured_{quantity}"] = Variable(("*",), "bool", "1", f"whether {quantity} was measured")
    return words


STUDY = _study()


def table(schema: str) -> dict[str, Variable]:
    """Return the variables of a quantity by its name; ``study`` is all of them over the labels of the results.

    Raises
    ------
    ValueError
        If there is no such quantity.
    """
    if schema == "study":
        return STUDY
    if schema not in SCHEMAS:
        raise ValueError(f"there is no quantity {schema!r}; there are {', '.join(sorted(SCHEMAS))}")
    return SCHEMAS[schema]


def check(dataset: xr.Dataset, schema: str) -> None:
    """Compare a Dataset with the table of its quantity.

    Raises
    ------
    ValueError
        On a variable or coordinate that the table does not know, and on wrong dims or a wrong dtype. This is a mistake
        of the program, not of its user.
    """
    known = table(schema)
    for kind, expected, arrays in (
        ("variable", known, dataset.data_vars),
        ("coordinate", COORDINATES, dataset.coords),
    ):
        for name, array in arrays.items():
            if name not in expected:
                raise ValueError(f"{schema} has no {kind} {name!r}; declare it in landscape.schemas")
            variable = expected[str(name)]
            if kind == "coordinate" and not variable.dims and array.ndim:
                variable = variable._replace(dims=(str(name),))  # a label of one result, or of a dim of many
            if schema == "study" and kind == "variable":
                variable = _of_its_quantity(str(name), array.dims, variable)
            _check_array(f"{kind} {name!r} of {schema}", array, variable, scalar=kind == "coordinate")


def _of_its_quantity(name: str, dims: tuple[Hashable, ...], first: Variable) -> Variable:
    """Return the declaration of a word by the quantity whose dims fit; one alone in a study has no prefixes."""
    others = [first._replace(dims=(*(d for d in t[name].dims if d != "*"), "*")) for t in SCHEMAS.values() if name in t]
    return next((other for other in others if _dims_fit(dims, other.dims)), first)


def _check_array(what: str, array: xr.DataArray, variable: Variable, scalar: bool) -> None:
    """Compare one array with its declaration; a coordinate may also be a scalar label of the whole result."""
    if not _dims_fit(array.dims, variable.dims) and not (scalar and array.ndim == 0):
        raise ValueError(f"{what} has dims {array.dims}, not {variable.dims}")
    if _dtype_name(array.dtype) != variable.dtype:
        raise ValueError(f"{what} has dtype {array.dtype}, not {variable.dtype}")


def _dims_fit(dims: tuple[Hashable, ...], declared: tuple[str, ...]) -> bool:
    """Compare dims with their declaration, in which a last ``*`` stands for any labels of ``LABELS``."""
    if declared[-1:] != ("*",):
        return dims == declared
    fixed = declared[:-1]
    return dims[: len(fixed)] == fixed and set(dims[len(fixed) :]) <= set(LABELS)


def _dtype_name(dtype: np.dtype) -> str:
    """Return the declared name of a dtype; text comes as fixed-width, variable-width or object arrays."""
    return "str" if dtype.kind in "UTO" else dtype.name


def describe(dataset: xr.Dataset, schema: str) -> xr.Dataset:
    """Return the Dataset with ``units`` and ``long_name`` attached to every variable and coordinate."""
    described = dataset.copy()
    for name, variable in {**COORDINATES, **table(schema)}.items():
        if name in described.variables:
            described[name].attrs.update(units=variable.units, long_name=variable.long_name)
    return described
