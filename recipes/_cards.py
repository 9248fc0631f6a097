"""What the cards of shipped weights share."""

from __future__ import annotations

import importlib.metadata
from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files("smda_monitor"))) / "assets" / "smollm2-135m-instruct"
"""Folder of the weights that come with the package."""
VERSIONS = ("torch", "transformers", "trl", "peft", "sae-lens", "scikit-learn")


def header(title: str, recipe: str, seed: int) -> str:
    """Title, licence, recipe, seed and versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    return f"# {title}\n\nApache-2.0. Rebuilt by `python {recipe} --seed {seed}`. Made with {versions}."


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
