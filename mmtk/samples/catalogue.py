"""The samples by name, for ``mmtk sample NAME key=value``. Listing them loads neither numpy nor torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.samples.options import (
    BrainsOptions,
    CShapesOptions,
    GliomasOptions,
    LungsOptions,
    SampleOptions,
    TumorBrainOptions,
    parse,
)

if TYPE_CHECKING:
    from mmtk.samples.sample import Sample


@dataclass(frozen=True)
class Recipe:
    """One kind of sample.

    Attributes:
        name: By which a user asks for it.
        summary: One line.
        options: What may be asked of it; every field has a default and a description.
        target: ``"module:function"``; the function takes the options as keywords.
        pairs: Whether it makes pairs to register; else heads to segment.
    """

    name: str
    summary: str
    options: type[SampleOptions]
    target: str
    pairs: bool = True

    def function(self) -> Callable[..., Any]:
        module, _, attribute = self.target.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), attribute)
        return found


#: All samples, by name.
SAMPLES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "tumor_brain",
                "a deformed brain with a lesion, and the healthy brain that it was",
                TumorBrainOptions,
                "mmtk.samples.tumor:tumor_brain",
            ),
            Recipe(
                "brains",
                "pairs of brains to train on, lesion, shape, contrast and scanner drawn for each",
                BrainsOptions,
                "mmtk.samples.anatomies:brains",
            ),
            Recipe(
                "c_shapes",
                "deformed letters C, cut; algorithm 5.2 of Maillard's thesis",
                CShapesOptions,
                "mmtk.samples.shapes:c_shapes",
            ),
            Recipe(
                "lungs",
                "lungs between inhalation and exhalation, with masks and landmarks; some are stiff at their bases",
                LungsOptions,
                "mmtk.samples.lungs:lungs",
            ),
            Recipe(
                "gliomas",
                "heads with a glioma in four modalities and its parts labeled, as BraTS lays them out",
                GliomasOptions,
                "mmtk.samples.heads:gliomas",
                pairs=False,
            ),
        )
    }
)


def make(name: str, out: str | Path, options: Mapping[str, Any] | None = None) -> Path:
    """Make a sample, write it, and return its folder.

    Args:
        name: One of :data:`SAMPLES`.
        out: A new or empty folder. Several shapes get a folder each in it: ``000``, ``001``, ...
        options: As text or as values; all that is wrong with them is said at once.

    Raises:
        ConfigError: The name or an option is unknown or wrong, or the folder is not empty. Nothing is written.
    """
    from mmtk.samples.files import refuse_full, save
    from mmtk.samples.sample import Sample

    if name not in SAMPLES:
        hint = nearest(name, SAMPLES) or "."
        raise ConfigError(f"no sample is called '{name}'{hint} There are: {', '.join(SAMPLES)}.")
    recipe, folder = SAMPLES[name], Path(out)
    asked = parse(recipe.options, options or {}, name)
    refuse_full(folder)
    made = recipe.function()(**{field: getattr(asked, field) for field in type(asked).model_fields})
    if not recipe.pairs:
        return _save_heads(made, folder, getattr(asked, "count", 1))
    if isinstance(made, Sample):
        return save(made, folder)
    if getattr(asked, "count", 1) == 1:
        return save(next(made), folder)
    for number, sample in enumerate(made):
        save(sample, folder / f"{number:03d}")
    return folder


def _save_heads(made: Iterable[Any], folder: Path, count: int) -> Path:
    """Write heads; each of several into a folder of its own."""
    from mmtk.samples.heads import save_glioma

    for number, head in enumerate(made):
        save_glioma(head, folder if count == 1 else folder / f"glioma_{number:03d}")
    return folder


def one(name: str, options: SampleOptions, seed: int, index: int) -> Sample:
    """Return the sample that ``seed`` and ``index`` decide, whatever was made before.

    Args:
        name: One of :data:`SAMPLES`.
        options: Its options; their seed and count do not count.
    """
    if name == "c_shapes":
        from mmtk.samples.shapes import shape

        assert isinstance(options, CShapesOptions)
        return shape(options.model_copy(update={"seed": seed, "count": 1}), index)
    if name == "brains":
        from mmtk.samples.anatomies import one_brain

        assert isinstance(options, BrainsOptions)
        return one_brain(options.model_copy(update={"seed": seed, "count": 1}), index)
    if name == "lungs":
        from mmtk.samples.lungs import one_breath

        assert isinstance(options, LungsOptions)
        return one_breath(options.model_copy(update={"seed": seed, "count": 1}), index)
    import numpy as np

    drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    given = {field: getattr(options, field) for field in type(options).model_fields if field != "seed"}
    made: Sample = SAMPLES[name].function()(**given, seed=drawn)
    return made
