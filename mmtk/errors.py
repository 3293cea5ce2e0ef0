"""What mmtk raises on purpose.

    MmtkError
    ├── ConfigError       the run description is wrong; nothing was computed
    │   └── InputError    a file, an image or a mask cannot be used
    ├── GridMismatch      two fields do not lie on one grid
    ├── FoldedFlow        the flow stopped being invertible
    ├── ResourceError     memory, disk or device gave out while a run was on
    └── PluginError       a part that the run names could not be loaded

Every message says what was seen, what was expected and what to do next. Whatever else escapes from mmtk is
a mistake of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ConfigError", "FoldedFlow", "GridMismatch", "InputError", "MmtkError", "PluginError", "ResourceError"]


class MmtkError(Exception):
    """The root: ``except MmtkError`` catches everything that mmtk raises on purpose."""


class ConfigError(MmtkError, ValueError):
    """The description of a run is wrong; nothing was computed.

    Attributes:
        problems: One sentence for each thing that is wrong, so that all can be mended at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class InputError(ConfigError):
    """A file, an image or a mask cannot be used as it is."""


class GridMismatch(MmtkError, ValueError):
    """Two fields do not lie on one grid."""

    def __init__(self, left: str, left_shape: Sequence[int], right: str, right_shape: Sequence[int]) -> None:
        super().__init__(
            f"`{left}` has shape {tuple(left_shape)} but `{right}` has shape {tuple(right_shape)}. "
            f"Both must lie on one grid. To fix this, resample `{left}` onto the grid of `{right}` first."
        )


class FoldedFlow(MmtkError, ArithmeticError):
    """The flow stopped being invertible."""


class PluginError(MmtkError):
    """A part that the run names could not be loaded."""


class ResourceError(MmtkError, RuntimeError):
    """Memory, disk or device gave out while a run was on."""
