"""1x1 convolutions as matrix products: the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everypoint.numerics import (
    Pointwise,
    Rows,
    full_precision,
    linear,
    one_thread,
    products_in,
    replace_linear,
    replace_pointwise,
    threads,
)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(stride, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 1, stride=stride, bias=bias).double()
    x = torch.randn(2, 5, 9, 12, dtype=torch.float64)
    assert torch.allclose(Pointwise(convolution)(x), convolution(x), atol=1e-12)


def test_only_plain_pointwise_convolutions_are_replaced():
    kept = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1)]
    network = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), *kept, nn.Conv2d(4, 2, 1))
    replace_pointwise(network)
    kinds = [type(module).__name__ for module in network.modules() if isinstance(module, (nn.Conv2d, Pointwise))]
    assert kinds == ["Pointwise", "Conv2d", "Conv2d", "Conv2d", "Pointwise"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4, 5), (0, 5)])
def test_linear_layers_are_the_same_function(bias, shape):
    torch.manual_seed(0)
    layer = nn.Linear(5, 7, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        found = Rows(layer)(x)
        assert torch.allclose(found, layer(x), atol=1e-6)
        assert found.shape == (*shape[:-1], 7)
        turned = torch.randn(5, 3).T
        assert torch.allclose(Rows(layer)(turned), layer(turned), atol=1e-6)
    assert torch.equal(Rows(layer.double())(x.double()), layer(x.double()))


def test_long_sums_are_equal_by_one_thread_and_two():
    """With 64 rows of 1,536 values torch's own product was seen to differ between one thread and two."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(64, 1536), torch.randn(384, 1536), torch.randn(384)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(linear(x, weight, bias))
    assert torch.equal(found[0], found[1])


def test_where_a_gradient_is_asked_for_there_is_one():
    weight = torch.randn(3, 4, requires_grad=True)
    linear(torch.ones(2, 4), weight).sum().backward()
    assert torch.equal(weight.grad, torch.full((3, 4), 2.0))


def test_linear_layers_alone_are_replaced():
    class Own(nn.Linear):
        pass

    network = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Own(4, 4), nn.Linear(4, 2, bias=False))
    names = list(network.state_dict())
    replace_linear(network)
    kinds = [type(module).__name__ for module in network.modules() if isinstance(module, (nn.Linear, Rows))]
    assert kinds == ["Rows", "Own", "Rows"]
    assert list(network.state_dict()) == names


def test_one_thread_ends_with_its_block():
    before = torch.get_num_threads()
    with threads(2):
        with pytest.raises(ZeroDivisionError), one_thread(torch.zeros(1)):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        with one_thread(torch.zeros(1, device="meta")):
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_full_precision_ends_with_its_block():
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == before


# ------------------------------------------------------------------------------------------------ TF32

PRODUCTS = torch.backends.cuda.matmul


@pytest.fixture(params=["none", "ieee", "tf32"])
def setting(request):
    """What the process had before; left as it was found."""
    found = PRODUCTS.fp32_precision
    PRODUCTS.allow_tf32 = request.param == "tf32"
    PRODUCTS.fp32_precision = request.param
    yield request.param
    PRODUCTS.allow_tf32 = found == "tf32"
    PRODUCTS.fp32_precision = found


@pytest.mark.parametrize(("precision", "within"), [("tf32", "tf32"), ("float32", "ieee")])
def test_products_on_cuda_are_in_the_precision_of_the_block(setting, precision, within):
    with products_in(precision, "cuda:0"):
        assert PRODUCTS.fp32_precision == within
        assert PRODUCTS.allow_tf32 == (precision == "tf32")  # raises where the names of the setting disagree
        assert torch.get_float32_matmul_precision() == {"tf32": "high", "float32": "highest"}[precision]
        with products_in("tf32", torch.device("cuda")), full_precision():
            assert PRODUCTS.fp32_precision == "tf32"
        assert PRODUCTS.fp32_precision == within
    assert PRODUCTS.fp32_precision == setting
    assert PRODUCTS.allow_tf32 == (setting == "tf32")


def test_a_failure_in_the_block_leaves_nothing_behind(setting):
    with pytest.raises(ZeroDivisionError), products_in("tf32", "cuda"):
        raise ZeroDivisionError
    assert PRODUCTS.fp32_precision == setting


def test_products_on_a_cpu_are_what_they_were(setting):
    others = torch.backends.mkldnn.matmul.fp32_precision
    with products_in("tf32", torch.device("cpu")):
        assert PRODUCTS.fp32_precision == setting
    with products_in("tf32", "cuda"):
        assert torch.backends.mkldnn.matmul.fp32_precision == others  # those of a CPU beside it too


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_tf32_rounds_factors_to_11_bits():
    factor = torch.full((64, 64), 1 + 2.0**-13, device="cuda")
    for precision, product in (("float32", 64 * (1 + 2.0**-13)), ("tf32", 64.0)):
        with products_in(precision, "cuda"):
            assert torch.equal(factor @ torch.ones_like(factor), torch.full_like(factor, product))
