"""The words of the results, and the check that holds Datasets to them."""

import numpy as np
import pytest
import xarray as xr

from landscape import schemas

TABLES = [(name, word, variable) for name, table in schemas.SCHEMAS.items() for word, variable in table.items()]


def spectrum() -> xr.Dataset:
    return xr.Dataset(
        {"eigenvalue": ("eigen", np.ones(3)), "converged": ("eigen", np.ones(3, bool)), "num_params": 7, "loss": 0.5},
        coords={"eigen": [1, 2, -1], "method": "imp"},
    )


@pytest.mark.parametrize(("schema", "name", "variable"), TABLES)
def test_every_declaration_is_complete(schema: str, name: str, variable: schemas.Variable) -> None:
    assert variable.dtype in {"float64", "int64", "bool", "str"}
    assert variable.units
    assert variable.long_name
    assert name.isidentifier()
    assert schemas.COORDINATES.get(name, variable)[1:] == variable[1:], f"{name} is a coordinate of another meaning"
    for suffix in ("_se", "_lo", "_hi"):
        if name.endswith(suffix):
            assert name.removesuffix(suffix) in schemas.SCHEMAS[schema], f"{name} is the error of nothing"


def test_a_word_means_the_same_in_every_quantity() -> None:
    meanings: dict[str, schemas.Variable] = {}
    for schema, name, variable in TABLES:
        assert meanings.setdefault(name, variable)[1:3] == variable[1:3], f"{name} of {schema} has two meanings"


def test_coordinates_lie_along_one_dim_at_most() -> None:
    for variable in schemas.COORDINATES.values():
        assert len(variable.dims) <= 1


def test_the_contract_of_the_spectrum_is_in_its_table() -> None:
    words = """eigenvalue eigenvalue_se residual converged gap gap_se relative_gap ritz_value ritz_weight eigenvector
    trace trace_se frobenius_norm frobenius_norm_se participation_ratio participation_ratio_se log_det log_det_se
    effective_dimension effective_dimension_se zero_fraction outlier_count outlier_p_value loss accuracy gradient_norm
    num_params num_params_total rank_bound kept num_examples num_products"""
    assert set(words.split()) <= schemas.SCHEMAS["spectrum"].keys()


def test_a_dataset_that_follows_its_table_passes() -> None:
    schemas.check(spectrum(), "spectrum")
    schemas.check(spectrum().drop_vars("eigenvalue"), "spectrum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eigen_values": ("eigen", np.ones(3))}, "no variable 'eigen_values'"),
        ({"eigenvalue": ("probe", np.ones(3))}, r"has dims \('probe',\), not \('eigen',\)"),
        ({"eigenvalue": (("eigen", "node"), np.ones((3, 2)))}, "has dims"),
        ({"loss": ("eigen", np.ones(3))}, "has dims"),
        ({"eigenvalue": ("eigen", np.ones(3, np.float32))}, "dtype float32, not float64"),
        ({"num_params": 7.0}, "dtype float64, not int64"),
        ({"converged": ("eigen", np.ones(3))}, "dtype float64, not bool"),
    ],
)
def test_departures_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemas.check(spectrum().assign(change), "spectrum")


def test_unknown_coordinates_and_quantities_are_refused() -> None:
    with pytest.raises(ValueError, match="no coordinate 'run'"):
        schemas.check(spectrum().assign_coords(run=1), "spectrum")
    with pytest.raises(ValueError, match="coordinate 'eigen' of spectrum has dtype float64"):
        schemas.check(spectrum().assign_coords(eigen=[1.0, 2.0, 3.0]), "spectrum")
    with pytest.raises(ValueError, match="no quantity 'spectra'"):
        schemas.check(spectrum(), "spectra")


def test_describe_adds_units_and_leaves_the_original_alone() -> None:
    original = spectrum()
    described = schemas.describe(original, "spectrum")
    assert described.eigenvalue.attrs == {"units": "nat / parameter^2", "long_name": "eigenvalue"}
    assert all({"units", "long_name"} <= described[name].attrs.keys() for name in described.variables)
    assert all(not original[name].attrs for name in original.variables)
