"""The errors a user meets, each naming what was found, what was expected and what to do.

`ConfigError` is your argument or file; `PrerequisiteError` is your environment or the run you attached the monitor to;
`MeasurementError` is a figure that could not be taken. Storey 1: known everywhere, knows nothing.
"""


class SMDAError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(SMDAError, ValueError):
    """An argument, a config key or a file given by the user is wrong."""


class PrerequisiteError(SMDAError, RuntimeError):
    """The environment, the model or the trainer's mode is not what the monitor needs."""


class MeasurementError(SMDAError, RuntimeError):
    """A measurement gave no usable figure (NaN, Inf, an account that cannot be taken)."""


def describe(what: str, found: object, expected: object, remedy: str) -> str:
    """One shape for every message: ``what: found …; expected …. What to do: …``."""
    return f"{what}: found {found}; expected {expected}. What to do: {remedy}"
