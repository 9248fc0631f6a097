"""Reads the monitor's configuration: a YAML file or a mapping becomes one checked `MonitorConfig`.

Every problem of a file is reported at once, each with its dotted path, what was found and what is valid there.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from ..errors import ConfigError, describe
from ..records.config import MonitorConfig
from ..records.section import Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_PATHS = (
    ("model", "name"),
    ("model", "adapter"),
    ("probes", "file"),
    ("probes", "fit"),
    ("probes", "heldout"),
    ("behaviour", "answers"),
    ("dictionary", "path"),
    ("policy", "path"),
)
"""Keys that may name a file or folder. ``outputs.folder`` stays relative to the working directory."""

_WORDS = ("shipped", "fit", "smollm2-135m-instruct")
"""Values of those keys that are never a path."""


def load_config(source: str | Path | Mapping[str, Any] | MonitorConfig) -> MonitorConfig:
    """The configuration that `source` holds: a YAML file's path, a mapping, or a `MonitorConfig` (returned as it is).

    In a file, a relative path of a model, adapter, probe file, dictionary or policy counts from the file's own folder;
    what is not there is left alone, since it may be a hub id, unless it starts with ``.`` or ends in ``.jsonl``.
    ``outputs.folder`` counts from the working directory.

    Raises:
        ConfigError: no such file, not YAML, a key given twice, an unknown key, or a value that is not valid; all
            problems in one message.
    """
    if isinstance(source, MonitorConfig):
        return source
    if isinstance(source, Mapping):
        return _validated(dict(source), "the configuration")
    try:
        path = Path(source).expanduser()
    except TypeError as error:
        expected = "a YAML file's path, a mapping or a MonitorConfig"
        raise ConfigError(describe("config", type(source).__name__, expected, "see the files in configs/")) from error
    return _anchored(_validated(_read_yaml(path), str(path)), path.parent)


def resolve(config: MonitorConfig) -> MonitorConfig:
    """`config` with what the preset decides filled in: ``dictionary.gate``, ``dictionary.position`` and
    ``policy.feature_contrast`` are never None afterwards; a value that was given stays.
    """
    paper = config.policy.preset == "paper"
    dictionary = config.dictionary.model_copy(
        update={
            "gate": config.dictionary.gate or ("relu_proxy" if paper else "continuous"),
            "position": config.dictionary.position or ("last_user_token" if paper else "last_prompt_token"),
        }
    )
    contrast = config.policy.feature_contrast
    if contrast is None:
        contrast = 0.1 if paper else 0.0
    policy = config.policy.model_copy(update={"feature_contrast": contrast})
    return config.model_copy(update={"dictionary": dictionary, "policy": policy})


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is given twice in one mapping: YAML itself keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in seen:
                    problem = f"key {key.value!r} given twice, first in line {seen[key.value]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in the file at `path`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
        raise ConfigError(describe(f"config file {path}", found, "a YAML file", "check the path")) from error
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
        raise ConfigError(describe(f"config file {path}", found, "UTF-8 text", "save it as UTF-8")) from error
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        found = (getattr(error, "problem", None) or str(error).splitlines()[0]).removeprefix("found ")
        raise ConfigError(describe(where, found, "valid YAML", "mend that line")) from error
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        expected = f"a mapping with sections such as {', '.join(MonitorConfig.model_fields)}"
        raise ConfigError(describe(f"config file {path}", found, expected, "see the files in configs/"))
    return content


def _validated(content: dict[Any, Any], what: str) -> MonitorConfig:
    """`content` as a `MonitorConfig`; `what` names it in the error."""
    try:
        return MonitorConfig.model_validate(content)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{what} has {count}:", *problems])) from error


def _problem(detail: ErrorDetails) -> str:
    """One line for one of pydantic's errors."""
    location, kind = detail["loc"], detail["type"]
    dotted = ".".join(str(part) for part in location)
    if kind == "extra_forbidden" or (kind == "invalid_key" and location):
        section = ".".join(str(part) for part in location[:-1]) or "the top level"
        keys = list(_section(location[:-1]).model_fields)
        expected = f"one of the keys of {section}: {', '.join(keys)}"
        return describe(dotted, "an unknown key", expected, _remedy(location[-1], keys, "take it out"))
    found = repr(detail["input"])
    if kind in ("model_type", "model_attributes_type"):
        expected = f"a section with keys {', '.join(_section(location).model_fields)}"
        return describe(dotted, found, expected, "write the keys indented under it")
    if kind == "literal_error":
        choices = [str(choice) for choice in _choices(location)]
        return describe(dotted, found, " or ".join(choices), _remedy(detail["input"], choices, "choose one of these"))
    return describe(dotted, found, detail["msg"].removeprefix("Input should be "), "change the value")


def _section(location: tuple[int | str, ...]) -> type[Section]:
    """The section class at a dotted place of the configuration."""
    section: type[Section] = MonitorConfig
    for key in location:
        annotation = section.model_fields[str(key)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Section)
        section = annotation
    return section


def _choices(location: tuple[int | str, ...]) -> list[object]:
    """The words that are valid at a place whose type is a ``Literal``, one or None, or a tuple or mapping of them."""
    for end, key in enumerate(location):
        annotation = _section(location[:end]).model_fields[str(key)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return _literals(annotation)
    return []


def _literals(annotation: object) -> list[object]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in _literals(part)]


def _remedy(found: object, valid: list[str], otherwise: str) -> str:
    """Names the nearest valid word; `otherwise` where none is near."""
    near = get_close_matches(str(found), valid, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _anchored(config: MonitorConfig, folder: Path) -> MonitorConfig:
    """`config` with the relative paths of `_PATHS` taken from `folder`."""
    for section_name, key in _PATHS:
        section = getattr(config, section_name)
        value = getattr(section, key)
        if value is None or value in _WORDS or value.startswith("shipped:"):
            continue
        candidate = folder / Path(value).expanduser()
        if candidate.exists() or value.startswith((".", "~")) or value.endswith(".jsonl"):
            section = section.model_copy(update={key: str(candidate)})
            config = config.model_copy(update={section_name: section})
    return config
