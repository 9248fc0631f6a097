"""From a template and figures to one HTML file that opens without a server.

The page needs no network: plotly is inside it once, and a content policy forbids every connection and every script but
ours. Text that comes from data is escaped by Jinja2, and invisible characters are taken out of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, describe
from ..files import write_text
from ..text import duration, number, percent, plain, visible

_HERE = Path(__file__).parent
PAGE = "report.html"
"""A page's file."""


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """The `template` (a file beside this one) filled with `context`, and with what every page has: style and scripts,
    ``spec(figure)``, and the filters number, percent, duration, plain and cell."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Takes invisible characters out of every text that the template prints; what is already HTML is ours."""
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _signed, "percent": percent, "duration": duration, "plain": plain, "cell": cell}
    scripts = [_inline(script) for script in (_plotly(), (_HERE / "figures.js").read_text(encoding="utf-8"))]
    common = {
        # ours, and checked to hold no closing tag: the only texts that are not escaped
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "scripts": [Markup(script) for script in scripts],
        "script_hashes": Markup(" ".join(_hash(script) for script in scripts)),
        "spec": lambda figure: Markup(figure.spec),  # made by script_json, which leaves no < in it
    }
    return environment.get_template(template).render({**common, **context})


def save_page(folder: str | Path, page: str) -> Path:
    """Writes `page` as ``report.html`` into `folder`, atomically, and returns its path. Raises `ConfigError` where it
    cannot be written."""
    path = Path(folder) / PAGE
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(describe(str(path), error, "a file that can be written", "clear the way to it")) from error
    return path


def share_of(strongest: float) -> Callable[[float], float]:
    """Turns an activation into the percentage of the strongest one shown, in [0, 100]."""
    return lambda value: min(100.0, max(0.0, 100 * value / strongest)) if strongest > 0 and value == value else 0.0


def cell(value: object) -> str:
    """A figure of a table in four digits with a true minus sign, ``n/a`` for NaN; a text on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return "n/a"
    if isinstance(value, int | float):
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("-", "−")
    return plain(str(value), 120)


def _signed(value: float) -> str:
    """A signed figure with a true minus sign."""
    return number(value).replace("-", "−")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _inline(script: str) -> str:
    """A script of ours as it stands in the page: one kind of line end, since the hash is taken after parsing."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    early = "</script" in text.lower() or "<!--" in text
    assert not early, "this text would end its script element early"
    return text


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
