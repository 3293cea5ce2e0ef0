"""How a training run is described. Reading this file loads neither torch nor monai."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mmtk.config import ComponentConfig, LearnedConfig, Recipe

__all__ = ["TrainConfig", "Training"]


class TrainConfig(Recipe):
    """A training run, described completely: the method, the pairs, and how long.

    ``init``, ``normalize`` and ``spacing`` say how images from files are prepared; synthetic pairs need none of it.
    """

    data: str = Field(
        default="c_shapes",
        description="c_shapes, brains or tumor_brain: synthetic pairs, drawn as needed; a folder of pairs; or a .csv "
        "with the columns moving, fixed, mask",
    )
    options: dict[str, Any] = Field(default={}, description='of the synthetic pairs, such as {"size": 100}')
    template: Path | None = Field(
        default=None, description="the fixed image of all pairs, where `data` names moving images alone"
    )
    count: int = Field(default=2000, ge=1, description="synthetic pairs to train on")
    held_out: int = Field(
        default=50, ge=1, description="pairs to choose the best epoch by: of files, the last of the list"
    )
    reduce: int = Field(default=1, ge=1, description="average so many voxels along each axis into one")
    cache: Path | None = Field(default=None, description="folder that keeps pairs once they are made or prepared")
    epochs: int = Field(default=20, ge=1, description="times that every pair is seen, at most")
    batch_size: int = Field(default=4, ge=1, description="pairs for one step, on each process")
    rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    workers: int = Field(default=0, ge=0, description="processes that make the pairs; 0: none but this one")
    validate_every: int = Field(default=1, ge=1, description="epochs between validations")
    patience: int = Field(
        default=0, ge=0, description="validations without a better one before it stops; 0: never"
    )
    cpu_minutes: float | None = Field(
        default=None,
        gt=0,
        description="processor's time after which it stops, at the end of an epoch; none: no bound",
    )
    clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient of a step; 0: any")
    decay: Literal["none", "cosine"] = Field(
        default="none",
        description="none: the rate stays; cosine: it falls to 0 over the epochs, or over cpu_minutes if they end first",
    )
    use_mask: bool = Field(
        default=True,
        description="give the model the lesion's mask; off: appearance may change anywhere (no local regularization)",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty of Adam")
    augment: Literal["none", "small", "large"] = Field(
        default="none",
        description="show pairs turned (small: up to 15 degrees; large: any way, and mirrored), shifted, scaled, and "
        "brighter or darker, anew in each epoch",
    )
    tensorboard: bool = Field(
        default=False, description="write the log for TensorBoard, too; needs mmtk[train] installed"
    )

    @model_validator(mode="after")
    def _is_learned(self) -> Self:
        if not isinstance(self.method, LearnedConfig):
            raise ValueError(
                f"method={self.method.kind}: has nothing to learn; `mmtk plugins` marks those that have"
            )
        if not self.use_mask and getattr(self.method, "masked", False):
            raise ValueError("use_mask=false: masked=true leaves out what the mask covers; give one of them")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether pairs are drawn, not read."""
        from mmtk.samples import SAMPLES

        return self.data in SAMPLES and SAMPLES[self.data].pairs


class Training(ComponentConfig):
    """Describes something else to train than a registration: the root of what the hook ``mmtk_trainings`` offers.

    ``target`` names a function, called as ``function(config, out, device=, seed=, resume=, watch=)``: it leaves
    ``model.safetensors`` in the folder ``out`` and returns what ``training.json`` holds. By :mod:`mmtk.training.task` it
    uses mmtk's engine.
    """

    epochs: int = Field(default=20, ge=1, description="times that everything is seen, at most")
    batch_size: int = Field(default=4, ge=1, description="items for one step, on each process")
    rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty of Adam")
    decay: Literal["none", "cosine", "plateau"] = Field(
        default="none",
        description="none: the rate stays; cosine: it falls to 0; plateau: by plateau_factor where validation stays",
    )
    plateau_epochs: int = Field(default=50, ge=1, description="epochs without a better validation before it falls")
    plateau_factor: float = Field(default=0.2, gt=0, lt=1, description="what the rate is multiplied by then")
    workers: int = Field(default=0, ge=0, description="processes that prepare the items; 0: none but this one")
    validate_every: int = Field(default=1, ge=1, description="epochs between validations")
    patience: int = Field(
        default=0, ge=0, description="validations without a better one before it stops; 0: never"
    )
    cpu_minutes: float | None = Field(
        default=None,
        gt=0,
        description="processor's time after which it stops, at the end of an epoch; none: no bound",
    )
    clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient of a step; 0: any")
    tensorboard: bool = Field(
        default=False, description="write the log for TensorBoard, too; needs mmtk[train] installed"
    )
    cache: Path | None = Field(default=None, description="folder that keeps items once they are made or prepared")

    def check(self) -> None:
        """Refuse what can be seen to be wrong without torch: files that are missing, options that are unknown.

        Raises:
            ConfigError: One sentence for each thing that is wrong.
        """
