"""The suite asks no network: what is not on this machine cannot be had, at once and not after the hub's retries."""

from __future__ import annotations

import os

# The hub's clients read it when they are imported, which test modules do.
os.environ["HF_HUB_OFFLINE"] = "1"
