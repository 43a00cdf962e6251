import pytest
import torch
from helpers import assert_close

from landscape.errors import InputError
from landscape.models import build
from landscape.pruning.gfs_kernel import conditioning, tangent_kernel


@pytest.mark.parametrize("outputs", [1, 2])
def test_kernel_is_the_jacobian_times_its_transpose(outputs):
    model = build("two_layer", width=6, input_shape=(4,), num_outputs=outputs).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(dict(model.named_parameters()))
    flat = torch.cat([j.reshape(5 * outputs, -1) for j in jacobian.values()], 1)
    kernel = tangent_kernel(x, model.hidden.weight, model.output.weight.T, model.activation)
    assert_close(kernel, flat @ flat.T, rtol=1e-10, atol=1e-14)


def test_a_small_step_of_gradient_descent_contracts_by_the_kernel():
    model = build("two_layer", width=30, input_shape=(4,), num_outputs=1, activation="tanh").double()
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    kernel = torch.as_tensor(tangent_kernel(x, model.hidden.weight, model.output.weight.T, model.activation))
    before = (model(x) - y).detach()
    ((model(x) - y).square().sum() / 6).backward()
    rate = 1e-4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= rate * parameter.grad
        after = model(x) - y
    assert_close((after - before) / rate, -kernel @ before / 3, rtol=1e-3)


def test_conditioning_of_a_known_kernel():
    found = conditioning(torch.diag(torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)).numpy(), 3, 100, 2)
    assert (found.smallest, found.largest, found.inverse_condition) == (1.0, 4.0, 0.25)
    assert found.assumptions
    assert not conditioning(torch.eye(3).numpy(), 30, 10, 2).assumptions
    assert found.contraction(0.3, 3) == pytest.approx(0.9)


def test_kernels_that_would_be_too_large_are_refused():
    with pytest.raises(InputError, match="take 2000 examples"):
        tangent_kernel(torch.zeros(2001, 1), torch.zeros(1, 1), torch.zeros(1, 2), torch.tanh)
