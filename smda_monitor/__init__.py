"""Watches a behaviour (refusal) while a chat model is fine-tuned: which training rows move it, through which features.

Nothing heavy is imported here: a public name is loaded from its own module when it is first asked for.

    from smda_monitor import SMDACallback
    trainer = SFTTrainer(model, args=SFTConfig(), train_dataset=rows, callbacks=[SMDACallback("configs/my_run.yaml")])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .callback import SMDACallback
    from .errors import ConfigError, MeasurementError, PrerequisiteError, SMDAError
    from .instruments.config_file import load_config
    from .instruments.embedded import load_model
    from .instruments.probe_files import read_probes
    from .outputs.report import write_report
    from .records.config import MonitorConfig
    from .records.probes import Probe, ProbeSet

__all__ = [
    "ConfigError",
    "MeasurementError",
    "MonitorConfig",
    "PrerequisiteError",
    "Probe",
    "ProbeSet",
    "SMDACallback",
    "SMDAError",
    "__version__",
    "load_config",
    "load_model",
    "read_probes",
    "write_report",
]

_HOME = {
    "ConfigError": ".errors",
    "MeasurementError": ".errors",
    "MonitorConfig": ".records.config",
    "PrerequisiteError": ".errors",
    "Probe": ".records.probes",
    "ProbeSet": ".records.probes",
    "SMDACallback": ".callback",
    "SMDAError": ".errors",
    "load_config": ".instruments.config_file",
    "load_model": ".instruments.embedded",
    "read_probes": ".instruments.probe_files",
    "write_report": ".outputs.report",
}
"""The module of each public name."""


def __getattr__(name: str) -> object:
    """The public name `name`, loaded from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
