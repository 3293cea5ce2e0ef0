"""How a run is described: frozen pydantic models that refuse what they do not know.

A part of mmtk (a similarity, an integrator, a whole method) is described by a :class:`ComponentConfig`: its
name in ``kind``, its settings as fields, and where its class lives in ``target``. A description is data. It can
be listed, checked, printed and stored without torch; only :meth:`ComponentConfig.build` follows ``target``.

Which parts exist is for the catalogue of installed plugins to say. It comes in as the validation context,
``context={"catalogue": ...}``, so that there is no global registry and a test passes its own.

Text is understood where a type is known, and nowhere else: ``"8,4,2"`` and ``"[8, 4, 2]"`` are lists where the
field is one, ``"none"`` is None where the field may be None, ``"~/a.nii.gz"`` is expanded where it is a path.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from mmtk.errors import ConfigError, PluginError
from mmtk.modalities import spread

__all__ = [
    "Capabilities",
    "ComponentConfig",
    "IntegratorPart",
    "LearnedConfig",
    "MethodPart",
    "Part",
    "Parts",
    "Preparation",
    "Recipe",
    "RegularizerPart",
    "RunConfig",
    "SegmenterPart",
    "SimilarityPart",
    "from_text",
    "load_target",
    "nearest",
]

INITS = ("none", "center", "rigid", "affine")


class Parts(Protocol):
    """What a catalogue must know: the config class of a part, by family and name."""

    def find(self, family: str, name: str) -> type[ComponentConfig]:
        """Return the config class, or raise an error that a user can act on."""


@dataclass(frozen=True)
class Capabilities:
    """What a part can do, as its listing says it.

    Attributes:
        dims: Numbers of spatial dimensions.
        needs_mask: It cannot run without a lesion mask.
        multichannel: It takes images of more than one channel.
        learned: It needs weights.
        diffeomorphic: A method whose maps never fold, and whose ``inverse`` is the inverse of its displacement.
        stationary: A similarity or a loss that is least where both inputs are one: its gradient is 0 there, and no
            small change pays.
        symmetric: A loss or a metric whose number stays when the two that are compared change places.
        binary: A segmenter whose masks hold 0 and 1 and nothing between.
        any_intensity: A segmenter whose mask stays when all intensities are multiplied by one positive number.
        any_spacing: A segmenter that finds the same region, in mm, whatever the size of the voxels.
        needs_fixed: A segmenter that cannot do without a healthy image to compare with.
        registers: A method that brings images nearer to one another; False for a row of a table that moves nothing.
    """

    dims: tuple[int, ...] = (2, 3)
    needs_mask: bool = False
    multichannel: bool = True
    learned: bool = False
    diffeomorphic: bool = False
    stationary: bool = True
    symmetric: bool = False
    binary: bool = False
    any_intensity: bool = False
    any_spacing: bool = False
    needs_fixed: bool = False
    registers: bool = True


class _Description(BaseModel):
    """Frozen, complete, and able to read its fields from text."""

    # Validators are built on first use: most commands list a hundred descriptions and check one.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        fields = {key: field for name, field in cls.model_fields.items() for key in (name, field.alias) if key}
        return {
            key: from_text(fields[key].annotation, value) if isinstance(value, str) and key in fields else value
            for key, value in raw.items()
        }


class ComponentConfig(_Description):
    """Describes one part: subclass it, fix ``kind``, say where the class lives, and list the settings as fields.

    Example::

        class LocalCorrelationConfig(ComponentConfig):
            "Squared local correlation coefficient, in a box."

            target = "mmtk.similarity:LocalCorrelation"
            kind: Literal["lncc"] = "lncc"
            radius: int = Field(default=2, ge=1, description="half width of the window, in voxels")

    Attributes:
        target: ``"package.module:Class"``. Its constructor takes the fields, less ``kind``, as keywords.
        summary: One line for listings; the first line of the docstring unless given.
        capabilities: What the part can do.
        limits: Limits of its contract (:mod:`mmtk.testing`) that it cannot keep, and what it keeps in their place, such
            as ``{"memory": 120}``; said here, so that whoever reads or checks the part knows.
        needs: Modules that mmtk does not bring along, each with what pip installs it by, such as
            ``{"ants": "mmtk[ants]"}``. They are imported when the part runs, and looked for before any work.
    """

    target: ClassVar[str]
    summary: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    limits: ClassVar[Mapping[str, float]] = {}
    needs: ClassVar[Mapping[str, str]] = {}

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "summary" not in cls.__dict__:
            cls.summary = (inspect.getdoc(cls) or "").split("\n", 1)[0].rstrip(".")

    @classmethod
    def name(cls) -> str:
        """The name by which a user asks for this part."""
        return str(cls.model_fields["kind"].default)

    def settings(self) -> dict[str, Any]:
        """The fields, less ``kind``; parts within it are still descriptions."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}

    @classmethod
    def missing(cls) -> str:
        """Say which of its modules are not installed, and how to get them; empty if all are there. Imports nothing."""
        absent = {module: source for module, source in cls.needs.items() if find_spec(module) is None}
        if not absent:
            return ""
        modules = " and ".join(f"'{module}'" for module in absent)
        sources = " ".join(f"'{source}'" for source in dict.fromkeys(absent.values()))
        return f"{cls.name()} needs the module {modules}, which is not installed; pip install {sources}"

    def ready(self) -> None:
        """Refuse to go on without what the part needs; to be asked before images are read.

        Raises:
            ConfigError: A module is not installed.
        """
        if told := self.missing():
            raise ConfigError(told)

    def unmasked(self, mask: object) -> str:
        """Say that ``masked=true`` has nothing to leave out, where ``mask`` is None; empty if all is well."""
        if mask is not None or getattr(self, "masked", None) is not True:
            return ""
        return (
            f"masked=true: {self.kind} is to leave the lesion out of the comparison, and there is no mask of one; give "
            f"mask=FILE, or leave masked= out"
        )

    def build(self, **context: Any) -> Any:
        """Import ``target`` and call it with the settings and ``context``.

        ``context`` is what the caller knows and a description cannot: a grid, a device, a spacing.

        Raises:
            ConfigError: A module that it needs is not installed.
        """
        self.ready()
        return load_target(self.target)(**self.settings(), **context)


class LearnedConfig(ComponentConfig):
    """The root of methods that are learned: which weights, and how far to go from what they say.

    The other fields are architecture and energy. They belong to the weights: with weights, what is not given is theirs,
    and what is given must be what they have. They matter for training, and for ``engine=optimize``.
    """

    weights: str | None = Field(
        default=None, description="file of weights, or a bundle with models/model.safetensors"
    )
    engine: Literal["network", "refine", "optimize"] = Field(
        default="network",
        description="network: one pass; refine: from there downhill by the energy that trained it; "
        "optimize: no weights, the network is trained on this pair alone",
    )
    refine_steps: int = Field(default=20, ge=1, description="evaluations of the energy that `refine` may use")
    iterations: int = Field(default=200, ge=1, description="steps of Adam that `optimize` takes")
    learning_rate: float = Field(default=1e-3, gt=0, description="of those")
    half: bool = Field(default=False, description="convolve in bfloat16; images and maps stay in float32")

    @classmethod
    def model_fields_of_model(cls) -> list[str]:
        """Names of the fields that are architecture and energy."""
        return [name for name in cls.model_fields if name not in LearnedConfig.model_fields]

    def settings(self) -> dict[str, Any]:
        plain = self.model_dump(mode="json", by_alias=False)
        own = [name for name in LearnedConfig.model_fields if name != "kind"]
        model = {name: plain[name] for name in self.model_fields_of_model()}
        said = {name: value for name, value in model.items() if name in self.model_fields_set}
        # What weights that are older than a setting were trained with.
        usual = {name: type(self).model_fields[name].default for name in model}
        usual = {name: value for name, value in usual.items() if isinstance(value, bool | int | float | str)}
        return {**{name: plain[name] for name in own}, "said": said, "usual": usual, **model}


@dataclass(frozen=True)
class Part:
    """Marks a field that holds a part of one family: a name, a mapping with ``kind``, or a description.

    Attributes:
        family: ``"method"``, ``"similarity"``, ... as in the names of the hooks, in the singular.
    """

    family: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._look_up, handler(source))

    def _look_up(self, raw: Any, info: ValidationInfo) -> ComponentConfig:
        if isinstance(raw, ComponentConfig):
            return raw
        settings = {"kind": raw} if isinstance(raw, str) else raw
        if not isinstance(settings, Mapping) or not isinstance(settings.get("kind"), str):
            raise ValueError(f"must be the name of a {self.family}, or its settings with the name under 'kind'")
        catalogue: Parts | None = (info.context or {}).get("catalogue")
        if catalogue is None:
            raise ValueError(
                f"the {self.family} {settings['kind']!r} is looked up in a catalogue, and none was given; "
                "pass a description, or context={'catalogue': mmtk.plugins.installed()}"
            )
        try:
            chosen = catalogue.find(self.family, settings["kind"])
        except PluginError as error:
            raise ValueError(str(error)) from error
        return chosen.model_validate({**settings, "kind": chosen.name()}, context=info.context)


MethodPart = Annotated[SerializeAsAny[ComponentConfig], Part("method")]
SimilarityPart = Annotated[SerializeAsAny[ComponentConfig], Part("similarity")]
IntegratorPart = Annotated[SerializeAsAny[ComponentConfig], Part("integrator")]
SegmenterPart = Annotated[SerializeAsAny[ComponentConfig], Part("segmenter")]
RegularizerPart = Annotated[SerializeAsAny[ComponentConfig], Part("regularizer")]


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError("is a folder; an image file is needed")
    if not path.parent.is_dir():
        raise ValueError(f"no such file; there is no folder '{path.parent}' either")
    raise ValueError("no such file" + nearest(path.name, (entry.name for entry in path.parent.iterdir())))


def _init(raw: Any) -> Any:
    if raw in INITS:
        return raw
    try:
        return _existing(_path(raw) if isinstance(raw, str) else Path(raw))
    except ValueError:
        raise ValueError(
            f"must be one of {', '.join(INITS)}, or the file of a transform{nearest(str(raw), INITS)}"
        ) from None


def _lacking(raw: Any) -> Any:
    return None if isinstance(raw, (str, Path)) and str(raw).lower() == "none" else raw


InputFile = Annotated[Path, AfterValidator(_existing)]
#: A file, or ``auto``.
LesionMask = Annotated[
    Union[Literal["auto"], Path],  # noqa: UP007
    AfterValidator(lambda mask: mask if str(mask) == "auto" else _existing(Path(mask))),
]
#: Files of the further channels; None where one side lacks a channel.
MoreFiles = tuple[Annotated[InputFile | None, BeforeValidator(_lacking)], ...]
Start = Annotated[Union[Literal["none", "center", "rigid", "affine"], Path], BeforeValidator(_init)]  # noqa: UP007


class Preparation(_Description):
    """What happens to two images before a method sees them."""

    init: Start = Field(
        default="affine",
        description="placement before the method: none, center, rigid, affine, or a transform file",
    )
    normalize: Literal["robust", "histogram", "none"] = Field(
        default="robust",
        description="intensities: robust scaling to [0, 1], histogram of the fixed image, or as they are",
    )
    spacing: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="size of a pixel, for images whose file does not say",
        json_schema_extra={"unit": "mm"},
    )


class Recipe(Preparation):
    """How to register, without the images: what a bundle holds."""

    method: MethodPart = Field(description="what registers")
    segmenter: SegmenterPart | None = Field(
        default=None,
        description="what finds the lesion for mask=auto; none: the best that is installed. `labels` takes it from the "
        "label map that mask= names",
    )
    mask_sensitivity: bool = Field(
        default=False,
        description="register three times more, with the mask dilated, eroded and left out, and report what changes",
    )


class RunConfig(Recipe):
    """A registration of two files, or of two lists of them, described completely."""

    moving: InputFile = Field(
        description="image that is carried onto the fixed one; several channels: files with commas between, or a "
        "patient's folder named as BraTS does"
    )
    fixed: InputFile = Field(description="image that stays; several channels likewise, none where it lacks one")
    mask: LesionMask | None = Field(
        default=None,
        description="lesion on the moving image; any non-zero voxel counts, and fractions are probabilities; auto: a "
        "segmenter looks for it",
    )
    fixed_mask: InputFile | None = Field(
        default=None, description="lesion on the fixed image; there the images are not compared"
    )
    labels: InputFile | None = Field(default=None, description="label map of the moving image, carried along")
    fixed_labels: InputFile | None = Field(
        default=None, description="label map of the fixed image; with `labels`, overlaps are reported"
    )
    more_moving: MoreFiles = Field(default=(), description="further channels; `moving=a,b` fills them")
    more_fixed: MoreFiles = Field(default=(), description="further channels; `fixed=a,b` fills them")
    more_mask: MoreFiles = Field(
        default=(), description="masks of the further channels, if not one for all; `mask=a,b` fills them"
    )

    @model_validator(mode="before")
    @classmethod
    def _deal_out(cls, raw: Any) -> Any:
        return spread(raw) if isinstance(raw, Mapping) else raw

    @model_validator(mode="after")
    def _channels_are_pairs(self) -> Self:
        ours, theirs = self.more_moving, self.more_fixed
        problems = []
        if len(ours) != len(theirs):
            problems.append(f"more_moving: {len(ours)} and more_fixed: {len(theirs)}; give one for one")
        elif any(pair == (None, None) for pair in zip(ours, theirs, strict=True)):
            problems.append("more_moving: a channel that neither side has; leave it out")
        if ours and not self.method.capabilities.multichannel:
            problems.append(
                f"moving: {1 + len(ours)} channels, but method={self.method.kind} registers one; name one"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def files(self) -> dict[str, Path]:
        """Every image file by the role that messages speak of, further channels as ``moving[2]``."""
        names = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")
        found = {name: getattr(self, name) for name in names}
        for name in ("moving", "fixed", "mask"):
            more = getattr(self, f"more_{name}")
            found.update({f"{name}[{number}]": path for number, path in enumerate(more, 2)})
        return {name: path for name, path in found.items() if path is not None and path != "auto"}

    @model_validator(mode="before")
    @classmethod
    def _a_segmenter_is_for_finding(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and raw.get("segmenter") is not None and raw.get("mask") is None:
            return {**raw, "mask": "auto"}
        return raw

    @model_validator(mode="after")
    def _the_mask_has_one_source(self) -> Self:
        kind = None if self.segmenter is None else self.segmenter.kind
        if kind == "labels" and self.mask == "auto":
            raise ValueError("segmenter=labels: the label map is missing; give mask=FILE")
        if kind not in (None, "labels") and self.mask not in (None, "auto"):
            raise ValueError(
                f"mask={self.mask} and segmenter={kind}: both say where the lesion is; give one of them"
            )
        if self.mask == "auto" and self.more_mask:
            raise ValueError("mask=auto: is one mask for all channels; leave the others out")
        return self

    @model_validator(mode="after")
    def _a_lesion_is_there_to_leave_out(self) -> Self:
        if told := self.method.unmasked(self.mask):
            raise ValueError(told)
        return self


def load_target(target: str) -> Any:
    """Import what ``"package.module:name"`` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name that is closest, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def from_text(annotation: Any, text: str) -> Any:
    """Read ``text`` as far as the field's type asks for it; what pydantic reads itself stays text."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if types.NoneType in choices and text.lower() == "none":
        return None
    for choice in choices:
        while get_origin(choice) is Annotated:
            choice = get_args(choice)[0]
        if get_origin(choice) is Literal:
            # pydantic compares a literal as it is, so that "2" would not be 2.
            named = {str(value): value for value in get_args(choice)}
            if text in named:
                return named[text]
        if choice is Path:
            return _path(text)
        if get_origin(choice) in (tuple, list, set, frozenset, dict):
            return _listfrom_text(text)
    return _objectfrom_text(text) if text.startswith("{") else text


def _listfrom_text(text: str) -> Any:
    if text.startswith(("[", "{")):
        return _objectfrom_text(text)
    return [item.strip() for item in text.split(",")]


def _objectfrom_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
