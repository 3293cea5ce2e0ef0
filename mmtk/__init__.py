"""mmtk: registration of images that do not have the same topology.

    mmtk.register(moving="patient.nii.gz", fixed="template.nii.gz", mask="tumor.nii.gz")

Importing the package loads nothing heavy: each public name is fetched on first use (PEP 562), so that a
command line that only lists or checks never waits for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtk.config import ComponentConfig as ComponentConfig
    from mmtk.config import RunConfig as RunConfig
    from mmtk.errors import ConfigError as ConfigError
    from mmtk.errors import MmtkError as MmtkError
    from mmtk.plugins import PLUGIN_API as PLUGIN_API
    from mmtk.plugins import hookimpl as hookimpl

__version__ = "0.1.0"

_HOME = {
    "ComponentConfig": "mmtk.config",
    "ConfigError": "mmtk.errors",
    "FoldedFlow": "mmtk.errors",
    "GridMismatch": "mmtk.errors",
    "InputError": "mmtk.errors",
    "MmtkError": "mmtk.errors",
    "Outcome": "mmtk.result",
    "PLUGIN_API": "mmtk.plugins",
    "PluginError": "mmtk.errors",
    "Registration": "mmtk.result",
    "RunConfig": "mmtk.config",
    "hookimpl": "mmtk.plugins",
    "read_image": "mmtk.io",
    "read_mask": "mmtk.io",
    "register": "mmtk.register",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmtk' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps ``mmtk.register`` a function: importing the submodule of that name would bind it over the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "register" and isinstance(value, ModuleType):
            value = value.register
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
