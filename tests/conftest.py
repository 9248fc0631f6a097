"""The suite asks no network: what is not on this machine cannot be had, at once and not after the hub's retries. And
where it runs in several processes each has one thread: more than cores would wait for one another."""

from __future__ import annotations

import gc
import os

import pytest

# The hub's clients read it when they are imported, which test modules do.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Every training of accelerate's ends with a collection, which would go through all of torch and transformers."""
    gc.collect()
    gc.freeze()
