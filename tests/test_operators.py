import pytest
from cases import CASES
from helpers import check_operator

from landscape import operators
from landscape.curvature import ProductOptions

CURVATURES = {"hessian": operators.hessian, "ggn": operators.ggn, "jtj": operators.jtj}


@pytest.mark.parametrize("kind", CURVATURES)
@pytest.mark.parametrize("strategy", ["double_backward", "recomputed"])
@pytest.mark.parametrize("name", CASES)
def test_curvature_equals_the_dense_matrix(name: str, strategy: str, kind: str) -> None:
    case = CASES[name]()
    operator = CURVATURES[kind](case.problem, ProductOptions(strategy=strategy))
    assert ("double" in operator.method) == (strategy == "double_backward")
    check_operator(operator, case.dense(kind), rtol=1e-11)
