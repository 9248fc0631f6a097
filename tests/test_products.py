"""Products inside `fast_products` are as exact as outside, and the setting is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smda_monitor.instruments.products import LIMIT, MATMUL, fast_products


class Backend:
    """A setting that is taken and changes no product."""

    fp32_precision = "none"


class Rounding(TorchDispatchMode):
    """Float32 products of matrices whose entries are rounded to bfloat16 first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default) and args[0].dtype == torch.float32:
            args = [a.bfloat16().float() for a in args]
        return func(*args, **(kwargs or {}))


class Coarse:
    """A setting that does what it allows."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._mode = Rounding()

    @property
    def fp32_precision(self) -> str:
        return "none"

    @fp32_precision.setter
    def fp32_precision(self, value: str) -> None:
        self.taken.append(value)
        if value == "bf16":
            self._mode.__enter__()
        else:
            self._mode.__exit__(None, None, None)


def error(shape: tuple[int, int, int], seed: int) -> float:
    """Relative error of a product (m, k)·(k, n) against float64."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    exact: Tensor = a.double() @ b.double()
    return float((a @ b - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", [(256, 256, 256), (64, 576, 1536), (3, 500, 7)])
def test_products_are_float32s_own(shape: tuple[int, int, int]) -> None:
    with fast_products():
        assert error(shape, 1) < LIMIT
    with Rounding():
        assert error(shape, 1) > 100 * LIMIT, "bfloat16 inside would be seen"


def test_a_setting_that_rounds_is_not_used() -> None:
    coarse = Coarse()
    with fast_products(coarse):
        assert error((64, 64, 64), 2) < LIMIT
    assert coarse.taken == ["bf16", "none"], "tried once, and put back"


@pytest.mark.parametrize("backend", [Backend(), *([MATMUL] if hasattr(MATMUL, "fp32_precision") else [])])
@pytest.mark.parametrize("fails", [False, True])
def test_the_setting_is_as_before(backend: Any, fails: bool) -> None:
    before, inside = backend.fp32_precision, []

    def use() -> None:
        with fast_products(backend):
            inside.append(backend.fp32_precision)
            if fails:
                raise RuntimeError("the probe failed")

    if fails:
        with pytest.raises(RuntimeError, match="the probe failed"):
            use()
    else:
        use()
    assert backend.fp32_precision == before
    assert inside == ["bf16"] or backend is MATMUL, "an exact one is used; this machine's may not be"


@pytest.mark.parametrize("backend", [None, object()])
def test_nothing_happens_where_torch_lacks_the_setting(backend: object) -> None:
    with fast_products(backend):
        assert error((64, 64, 64), 3) < LIMIT
    assert not hasattr(backend, "fp32_precision")
