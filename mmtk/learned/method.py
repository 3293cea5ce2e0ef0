"""A learned model as a method: any pair onto the weights' grid, through the network, and back.

The dial ``engine``:

    network    one pass
    refine     from the network's answer, ``refine_steps`` evaluations downhill by the energy that trained it
    optimize   no weights: the network is trained on the one pair (ISBI 2022, eq. 6)
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid, folds, invert, sample, warp
from mmtk.learned.model import Batch, Model, Prediction
from mmtk.learned.refine import refine
from mmtk.learned.weights import Weights, find_weights
from mmtk.method import Method, Pair, Progress, silent
from mmtk.prepare import affine_points, place
from mmtk.result import LevelReport, Outcome, Registration

__all__ = ["Frame", "LearnedMethod", "learned_method", "part"]

#: A fixed image that correlates less with the template of the weights than this is another template.
SAME_TEMPLATE = 0.95
#: Share of the appearance outside the mask, in root mean square, above which a note says that it was left out.
STRAY = 0.2


@dataclass(frozen=True, eq=False)
class Frame:
    """The weights' grid, and how it lies on a pair's.

    Attributes:
        grid: The weights' grid.
        to_pair: ``(4, 4)``, from its voxels to the pair's.
    """

    grid: Grid
    to_pair: np.ndarray

    @classmethod
    def on(cls, pair: Pair, grid: Grid, affine: np.ndarray) -> Frame:
        """Lay the weights' grid on a pair's by their places in the world.

        A pair that does not know where it lies is taken to lie as the weights' grid does, center on center.
        """
        if pair.affine is not None:
            return cls(grid, np.linalg.solve(pair.affine, affine))
        matrix = np.eye(4)
        for axis, (h, g, n, m) in enumerate(
            zip(pair.grid.spacing, grid.spacing, pair.grid.shape, grid.shape, strict=True)
        ):
            matrix[axis, axis], matrix[axis, 3] = g / h, (n - 1) / 2 - g / h * (m - 1) / 2
        return cls(grid, matrix)

    def bring(self, image: Tensor) -> Tensor:
        """Return an image of the pair on the weights' grid."""
        return place(image, self.to_pair, self.grid.shape)

    def batch(self, pair: Pair) -> Batch:
        """Return the pair on the weights' grid."""
        hidden = None if pair.fixed_mask is None else self.bring(pair.fixed_mask)
        if pair.inside is not None:
            outside = 1 - self.bring(pair.inside)
            hidden = outside if hidden is None else torch.maximum(hidden, outside)
        return Batch(
            moving=self.bring(pair.moving),
            fixed=self.bring(pair.fixed),
            mask=None if pair.mask is None else self.bring(pair.mask).clamp(0, 1),
            fixed_mask=hidden,
        )

    def carried_back(self, displacement: Tensor, pair: Pair) -> Tensor:
        """Return a displacement of the weights' grid in the pair's voxels, on the pair's grid."""
        linear = torch.as_tensor(self.to_pair[: pair.grid.dim, : pair.grid.dim]).to(displacement)
        turned = torch.einsum("ij,bj...->bi...", linear, displacement)
        return self.image_back(turned, pair)

    def image_back(self, image: Tensor, pair: Pair) -> Tensor:
        """Return an image of the weights' grid on the pair's grid; beyond it, its border values go on."""
        back = np.linalg.inv(self.to_pair)
        shape = pair.grid.shape
        if tuple(shape) == self.grid.shape and np.allclose(back, np.eye(4), atol=1e-6):
            return image
        from mmtk.fields import identity

        return sample(image, affine_points(identity(shape, dtype=image.dtype, device=image.device), back))


class LearnedMethod(Method):
    """Runs a model; a plugin says which.

    Args:
        weights: File or bundle, see :func:`mmtk.learned.weights.find_weights`; needed unless ``engine`` is
            ``optimize``.
        engine: ``network``, ``refine`` or ``optimize``.
        refine_steps: Evaluations that ``refine`` may use.
        iterations: Steps of Adam that ``optimize`` takes.
        learning_rate: Of those.
        half: Convolve in bfloat16.
        said: What the user gave explicitly among ``settings``; it must not contradict the weights.
        usual: Defaults of the settings: what weights that do not know one of them were trained with.
        settings: Architecture and energy, as :meth:`make` takes them.

    Raises:
        ConfigError: If weights are missing, unreadable, of another method, or contradicted.
    """

    #: Name of the method, as its weights have it.
    kind: str

    def __init__(
        self,
        *,
        weights: str | None,
        engine: str = "network",
        refine_steps: int = 20,
        iterations: int = 200,
        learning_rate: float = 1e-3,
        half: bool = False,
        said: Mapping[str, Any] | None = None,
        usual: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.engine, self.refine_steps = engine, refine_steps
        self.iterations, self.learning_rate = iterations, learning_rate
        self.narrow, self.settings = half, settings
        self.weights: Weights | None = None
        if engine == "optimize":
            return
        if weights is None:
            raise ConfigError(
                f"weights: {self.kind} needs them for engine={engine}; give weights=FILE or a bundle"
            )
        self.path = str(weights)
        self.weights = Weights.load(find_weights(weights))
        if self.weights.kind != self.kind:
            raise ConfigError(f"weights={weights}: belong to {self.weights.kind}, not to {self.kind}")
        self._contradicted(said or {}, usual or {})
        self.settings = dict(self.weights.settings)

    @abstractmethod
    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        """Return the untrained model on a grid, from settings as plain data, which are the callee's to change."""

    def _contradicted(self, said: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
        assert self.weights is not None
        trained = {**usual, **self.weights.settings}
        problems = [
            f"{name}={value}: the weights were trained with {trained[name]}; leave it out, or train anew"
            for name, value in said.items()
            if name in trained and trained[name] != value
        ]
        if problems:
            raise ConfigError(problems)

    def begin(self, pair: Pair) -> tuple[Frame, Batch, Model]:
        """Return where the model's grid lies, the pair on it, and the model with its weights, in evaluation mode.

        Raises:
            ConfigError: If the pair is not one that the weights are for.
        """
        self._fit_channels(pair.moving.shape[1])
        if self.weights is None:
            identity = np.eye(4) if pair.affine is None else pair.affine
            frame = Frame.on(replace(pair, affine=identity), pair.grid, identity)
        else:
            if len(pair.grid.shape) != self.weights.grid.dim:
                raise ConfigError(
                    f"weights={self.path}: are for {self.weights.grid.dim}-D images, these are {pair.grid.dim}-D"
                )
            if pair.mask is not None and not self.weights.takes_mask:
                raise ConfigError(
                    f"mask: weights={self.path} were trained without masks (use_mask=false) and let appearance change "
                    f"anywhere, so it could not be kept to this one; leave mask= out, or give weights trained with masks"
                )
            frame = Frame.on(pair, self.weights.grid, self.weights.affine)
        batch = frame.batch(pair)
        model = self.make(frame.grid, {**self.settings, "half": self.narrow}).to(batch.fixed.device)
        if self.weights is not None:
            self._same_template(batch)
            self.weights.load_into(model, self.path)
        return frame, batch, model.eval()

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register a pair; see the module's docstring for the engines."""
        begin = time.perf_counter()
        frame, batch, model = self.begin(pair)
        energies, evaluations, outcome, prediction = self._run(model, batch, progress)
        report = LevelReport(
            size=max(frame.grid.spacing),
            energies=tuple(energies),
            evaluations=evaluations,
            seconds=time.perf_counter() - begin,
            outcome=outcome,
        )
        with torch.no_grad():
            return _finish(pair, frame, batch, prediction, report)

    def _fit_channels(self, count: int) -> None:
        """Make a network of as many channels as the images have; weights have theirs.

        Raises:
            ConfigError: The weights, or the method, are for another number of channels.
        """
        if self.weights is None and "channels" in self.settings:
            self.settings["channels"] = count
        known = int(self.settings.get("channels", 1))
        if known != count:
            whose = f"method={self.kind} takes" if self.weights is None else f"weights={self.path} take"
            raise ConfigError(f"moving: {count} channels, but {whose} {known}; name as many, one file for each")

    def _run(self, model: Model, batch: Batch, progress: Progress) -> tuple[list[float], int, Outcome, Prediction]:
        if self.engine == "optimize":
            return self._optimize(model, batch, progress)
        if self.engine == "refine":

            def watch(iteration: int, energy: float) -> None:
                progress(0, 1, iteration, self.refine_steps, energy)

            path, descent = refine(model, batch, self.refine_steps, watch=watch)
            with torch.no_grad():
                prediction = model.follow(batch, path, maps=True)
            return descent.energies, descent.evaluations, descent.outcome, prediction
        with torch.no_grad():
            prediction = model(batch, maps=True)
        return [float(prediction.energy.sum())], 1, Outcome.PREDICTED, prediction

    def _optimize(
        self, model: Model, batch: Batch, progress: Progress
    ) -> tuple[list[float], int, Outcome, Prediction]:
        """Train the network on the one pair by Adam, and keep the best (ISBI 2022, eq. 6)."""
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        best, kept, energies = float("inf"), None, []
        voxels = batch.fixed[0, 0].numel()
        outcome = Outcome.EXHAUSTED
        with torch.enable_grad():
            for iteration in range(self.iterations):
                energy = model(batch).energy.sum()
                value = float(energy.detach())
                if not np.isfinite(value):
                    outcome = Outcome.NONFINITE if kept is None else Outcome.STALLED
                    break
                energies.append(value)
                if value < best:
                    best = value
                    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                optimizer.zero_grad(set_to_none=True)
                (energy / voxels).backward()
                optimizer.step()
                progress(0, 1, iteration + 1, self.iterations, value)
        if kept is not None:
            model.load_state_dict(kept)
        model.eval()
        with torch.no_grad():
            return energies, len(energies), outcome, model(batch, maps=True)

    def _same_template(self, batch: Batch) -> None:
        """Refuse a fixed image that is not the one that the weights know.

        Raises:
            ConfigError: If it is another.
        """
        assert self.weights is not None
        template = self.weights.template
        if template is None:
            return
        pair = torch.stack([batch.fixed.flatten(), template.to(batch.fixed).flatten()])
        alike = float(torch.corrcoef(pair)[0, 1].nan_to_num(0.0))
        if alike < SAME_TEMPLATE:
            raise ConfigError(
                f"fixed: correlates by {alike:.2f} with the template that weights={self.path} were trained for, "
                f"{SAME_TEMPLATE} is the least; register onto that template, take engine=optimize, or train anew"
            )


def _finish(pair: Pair, frame: Frame, batch: Batch, prediction: Prediction, report: LevelReport) -> Registration:
    """Bring everything onto the pair's grid; the appearance is exactly 0 where the warped mask is."""
    displacement = frame.carried_back(prediction.displacement, pair)
    assert prediction.inverse is not None
    inverse = frame.carried_back(prediction.inverse, pair)
    folded, notes = folds(displacement), []
    if folded:
        notes.append(
            f"the map folds at {folded} voxels; engine=refine, or weights trained with a larger lambda, help"
        )
    else:
        inverse = invert(displacement, inverse, tolerance=0.02)
    change = frame.image_back(prediction.warped - prediction.deformed(batch.moving), pair)
    appearance: Tensor | None = change
    if pair.mask is not None:
        appearance = torch.where(warp(pair.mask, displacement) > 0, change, 0)
        lost = float((change - appearance).norm() / change.norm().clamp_min(1e-12))
        if lost > STRAY:
            notes.append(
                "the network changed intensities outside the mask, too, and that part is left out; to keep it, leave "
                "mask= out"
            )
    if not bool(change.any()):
        appearance = None
    shape = {f"path.{i}": part for i, part in enumerate(prediction.path)}
    return Registration(
        grid=pair.grid,
        displacement=displacement,
        inverse=inverse,
        appearance=appearance,
        shape=shape,
        levels=(report,),
        notes=tuple(notes),
    )


def learned_method(weights: str) -> LearnedMethod:
    """Return the method that weights belong to, to be run as it was trained.

    Raises:
        ConfigError: If there are no such weights, or the method is not installed.
    """
    from mmtk.plugins import installed

    kind = Weights.load(find_weights(weights)).kind
    config: Any = installed().find("method", kind)
    method: LearnedMethod = config(weights=weights).build()
    return method


def part(family: str, description: Any, **context: Any) -> Any:
    """Build a part from plain data, its name under ``kind``, as weights keep it."""
    from mmtk.config import ComponentConfig
    from mmtk.plugins import installed

    if not isinstance(description, ComponentConfig):
        catalogue = installed()
        config = catalogue.find(family, description["kind"])
        description = config.model_validate(description, context={"catalogue": catalogue})
    return description.build(**context)
