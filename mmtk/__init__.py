"""mmtk: registration of images that do not have the same topology.

    mmtk.register(moving="patient.nii.gz", fixed="template.nii.gz", mask="tumor.nii.gz")

Importing the package loads nothing heavy: each public name is fetched on first use (PEP 562), so that a
command line that only lists or checks never waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtk.config import ComponentConfig as ComponentConfig
    from mmtk.config import Recipe as Recipe
    from mmtk.config import RunConfig as RunConfig
    from mmtk.errors import ConfigError as ConfigError
    from mmtk.errors import FoldedFlow as FoldedFlow
    from mmtk.errors import GridMismatch as GridMismatch
    from mmtk.errors import InputError as InputError
    from mmtk.errors import MmtkError as MmtkError
    from mmtk.errors import PluginError as PluginError
    from mmtk.io import Volume as Volume
    from mmtk.io import read_image as read_image
    from mmtk.io import read_mask as read_mask
    from mmtk.io import read_points as read_points
    from mmtk.plugins import PLUGIN_API as PLUGIN_API
    from mmtk.plugins import hookimpl as hookimpl
    from mmtk.registration import Result as Result
    from mmtk.registration import register as register
    from mmtk.result import Outcome as Outcome
    from mmtk.result import Registration as Registration
    from mmtk.transforms import Transform as Transform
    from mmtk.transforms import resample as resample

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
    "Recipe": "mmtk.config",
    "Result": "mmtk.registration",
    "RunConfig": "mmtk.config",
    "Transform": "mmtk.transforms",
    "Volume": "mmtk.io",
    "hookimpl": "mmtk.plugins",
    "read_image": "mmtk.io",
    "read_mask": "mmtk.io",
    "read_points": "mmtk.io",
    "register": "mmtk.registration",
    "resample": "mmtk.transforms",
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
