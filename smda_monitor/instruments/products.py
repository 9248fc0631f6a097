"""Faster float32 matrix products and attention on a CPU for the monitor's own passes, as exact as torch's.

torch gives float32 products to MKL, which leaves half of some processors unused. The setting that lets oneDNN take
them would also allow it bfloat16 inside; on processors that have no faster bfloat16 for it, it does not take it, and is
only faster. So the first use compares its products with float64: what is not float32's own rounding is not used.

On short sequences the backward of torch's fused CPU attention is slower than attention written out in products.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LIMIT = 1e-6
"""Largest relative error of a product (Frobenius) that is float32's own rounding; bfloat16's is about 3e-3."""


MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
"""What holds torch's setting; None where this torch has none."""


@contextmanager
def fast_products(backend: Any = MATMUL) -> Iterator[None]:
    """Inside, float32 products on the CPU are oneDNN's where they are exact; the setting is put back on exit.

    `backend`: what holds the setting, ``fp32_precision``; nothing happens where it has none.
    """
    if not _exact(backend):
        yield
        return
    with _setting(backend):
        yield


@contextmanager
def fast_pass(device: torch.device) -> Iterator[None]:
    """For a forward over short prompts and its backwards: on a CPU with `fast_products` and attention written out."""
    if device.type != "cpu":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with fast_products(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _setting(backend: Any) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


@functools.cache
def _exact(backend: Any) -> bool:
    """Whether products of every layout, under the setting, are right to float32's rounding."""
    if not hasattr(backend, "fp32_precision"):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    expected = a.double() @ b.double()
    with torch.no_grad(), _setting(backend):
        found = [a @ b, a @ b.T.contiguous().T, a.T.contiguous().T @ b, torch.bmm(a[None], b[None])[0]]
    return all(float((product - expected).norm() / expected.norm()) < LIMIT for product in found)
