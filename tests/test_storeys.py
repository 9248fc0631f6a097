"""The house: four storeys of rooms, imports point down only, heavy libraries where they are used, files stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "smda_monitor"
LONGEST = 250

ROOMS = {"records": 1, "maths": 2, "instruments": 3, "outputs": 3, "monitor": 4, "commands": 4}
"""The storey of each folder of the package."""

DOORS = {"__init__", "__main__", "callback", "cli"}
"""What users enter by, above all storeys. Beside `errors` nothing else lies at the package's top."""

STOREY = ROOMS | {"errors": 1} | dict.fromkeys(DOORS, 5)
"""By the first part of a module's name inside the package."""

HEAVY = {"transformers", "trl", "peft", "wandb", "sae_lens", "pandas", "plotly", "sklearn", "pyarrow", "datasets"}
"""Imported only inside the function that uses them; the callback alone needs transformers' class at its top."""

FORBIDDEN = {
    "errors": HEAVY | {"torch", "numpy", "accelerate", "pydantic"},
    "records": HEAVY | {"accelerate", "numpy"},
    "maths": HEAVY - {"sklearn"} | {"accelerate", "pathlib", "os", "io", "shutil", "tempfile", "yaml"},
    "instruments": {"wandb", "trl", "plotly", "jinja2", "rich"},
    "outputs": {"transformers", "trl", "peft", "accelerate", "sae_lens", "gguf"},
}
"""Other packages that a part of the house does not know."""


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    module: str
    """Dotted name; inside the package without the package's own name, e.g. ``maths.ridge``."""
    inside: bool
    """Whether it belongs to the package."""
    line: int
    """Where it stands."""
    late: bool
    """Inside a function or under ``if TYPE_CHECKING``."""


def imports(path: Path, root: Path) -> Iterator[Import]:
    """All imports of the file at `path` in the package at `root`."""
    folder = list(path.relative_to(root).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late: set[int] = set()
    for node in ast.walk(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            late |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(0, alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.level, node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for level, module, member in names:
            parts = module.split(".") if module else []
            if level:
                parts = folder[: len(folder) - level + 1] + parts
            elif parts[0] == root.name:
                parts = parts[1:]
            else:
                yield Import(module, False, node.lineno, id(node) in late)
                continue
            # `from ..maths import ridge` and `from smda_monitor import maths` name a module by their member.
            if member and (not parts or (root.joinpath(*parts, member)).with_suffix(".py").is_file()):
                parts = [*parts, member]
            yield Import(".".join(parts), True, node.lineno, id(node) in late)


def breaches(root: Path) -> list[str]:
    """Every breach of the house's rules in the package at `root`, as ``file:line what``."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        part = name.parts[0].removesuffix(".py")
        storey = STOREY.get(part, 5)
        if part not in (DOORS | {"errors"} if len(name.parts) == 1 else ROOMS):
            found.append(f"{name}:1 lies in no room ({', '.join(ROOMS)})")
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST:
            found.append(f"{name}:{length} is longer than {LONGEST} lines")
        for used in imports(path, root):
            where = f"{name}:{used.line}"
            top = used.module.split(".")[0]
            if used.inside:
                if top == "__version__":
                    continue
                if STOREY.get(top, 5) > storey:
                    found.append(f"{where} imports {used.module}, which lies above it")
                if {part, top} == {"instruments", "outputs"}:
                    found.append(f"{where} imports {used.module}: instruments and outputs do not know each other")
                if (part, top) == ("monitor", "commands"):
                    found.append(f"{where} imports {used.module}: commands know the monitor, never the reverse")
                continue
            if top in FORBIDDEN.get(part, set()):
                found.append(f"{where} imports {used.module}, which {part} does not know")
            if top in HEAVY and not used.late and (part, top) != ("callback", "transformers"):
                found.append(f"{where} imports {used.module} at its top")
    return found


def test_the_house_stands() -> None:
    assert breaches(PACKAGE) == []


def test_the_rules_see_the_package() -> None:
    seen = {used.module for path in PACKAGE.rglob("*.py") for used in imports(path, PACKAGE) if used.inside}
    assert {"errors", "records.probes", "records.config"} <= seen


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("records/config.py", "from ..maths.ridge import fit", "lies above"),
        ("records/config.py", "from smda_monitor import load_config", "lies above"),
        ("maths/ridge.py", "from .. import instruments", "lies above"),
        ("maths/ridge.py", "import smda_monitor.callback", "lies above"),
        ("maths/ridge.py", "def f():\n    from ..outputs.ledger import x", "lies above"),
        ("maths/ridge.py", "from pathlib import Path", "maths does not know"),
        ("instruments/a.py", "from ..outputs import ledger", "do not know each other"),
        ("instruments/a.py", "def f():\n    import wandb", "instruments does not know"),
        ("instruments/a.py", "from transformers import AutoModel", "at its top"),
        ("instruments/a.py", "from .. import callback", "lies above"),
        ("outputs/deep/b.py", "from ...instruments.a import x", "do not know each other"),
        ("outputs/b.py", "def f():\n    import transformers.utils", "outputs does not know"),
        ("outputs/b.py", "import pandas as pd", "at its top"),
        ("monitor/run.py", "from ..commands.check import run_check", "never the reverse"),
        ("monitor/run.py", "def f():\n    from ..commands import check", "never the reverse"),
        ("monitor/run.py", "from ..callback import SMDACallback", "lies above"),
        ("commands/check.py", "from .. import cli", "lies above"),
        ("outputs/b.py", "from ..monitor.run import x", "lies above"),
        ("run.py", "from .errors import X", "lies in no room"),
        ("maths.py", "x = 1", "lies in no room"),
        ("cellar/a.py", "x = 1", "lies in no room"),
        ("callback.py", "import trl", "at its top"),
        ("callback.py", "x = 1\n" * 251, "longer than 250"),
    ],
)
def test_a_breach_is_seen(tmp_path: Path, file: str, code: str, expected: str) -> None:
    path = tmp_path / "smda_monitor" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = breaches(tmp_path / "smda_monitor")
    assert len(found) == 1 or "at its top" in expected
    assert expected in " ".join(found)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (
            "maths/ridge.py",
            "from ..records.policy import X\nfrom ..errors import Y\nfrom .gates import z\nimport torch",
        ),
        ("instruments/a.py", "from ..maths import ridge\ndef f():\n    import transformers"),
        ("instruments/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from transformers import X"),
        ("outputs/b.py", "from .. import __version__\ndef f():\n    import wandb"),
        ("monitor/run.py", "from .pace import Pace\nfrom ..instruments import a\nfrom ..outputs import b"),
        ("commands/check.py", "from .training import x\nfrom ..monitor.run import y"),
        ("callback.py", "from transformers import TrainerCallback\nfrom .instruments import a\nfrom .monitor import b"),
        ("cli.py", "from . import __version__\nfrom .errors import X\ndef f():\n    from .commands import a"),
        ("__main__.py", "from .cli import main"),
        ("__init__.py", "from .callback import X"),
    ],
)
def test_what_is_allowed_is_no_breach(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / "smda_monitor" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert breaches(tmp_path / "smda_monitor") == []


def test_each_of_the_nine_known_errors_has_one_test_of_its_name() -> None:
    """What changed numbers in earlier implementations; `pytest -k mistake` runs them."""
    names = [name for path in Path(__file__).parent.glob("test_*.py") for name in _mistakes(path)]
    assert sorted(names) == list(range(1, 10))


def _mistakes(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"^def test_mistake_(\d+)_", path.read_text("utf-8"), re.MULTILINE)]
