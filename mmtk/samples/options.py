"""What may be asked of a sample: frozen descriptions that also read text (``growth="8,15"``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mmtk.config import nearest
from mmtk.errors import ConfigError

__all__ = [
    "BrainsOptions", "CShapesOptions", "GliomasOptions", "LungsOptions", "SampleOptions", "TumorBrainOptions", "parse",
]  # fmt: skip

Options = TypeVar("Options", bound="SampleOptions")


def _pair(raw: Any) -> Any:
    if raw is None or (isinstance(raw, str) and raw.lower() == "none"):
        return raw
    items = raw.strip("()[] ").split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple) or len(items) != 2:
        raise ValueError("must be two numbers, such as 8,15")
    return items


def _list(raw: Any) -> Any:
    return [item.strip() for item in raw.strip("()[] ").split(",")] if isinstance(raw, str) else raw


def _none(raw: Any) -> Any:
    return None if isinstance(raw, str) and raw.lower() == "none" else raw


Millimeters = Annotated[float, Field(gt=0)]
Radii = Annotated[tuple[Millimeters, Millimeters] | None, BeforeValidator(_none), BeforeValidator(_pair)]


class SampleOptions(BaseModel):
    """The root of all samples' options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    seed: int = Field(default=0, ge=0, description="the same seed and options give the same sample")


class TumorBrainOptions(SampleOptions):
    """A deformed brain with a lesion, and the healthy brain that it was."""

    kind: Literal["bright", "lookalike", "resected"] = Field(
        default="bright",
        description="bright core in edema; a tumor as grey as cortex; a cavity with the tissue collapsed",
    )
    dim: Literal[2, 3] = Field(default=3, description="3, or 2 for an axial slice")
    spacing: Annotated[Millimeters | None, BeforeValidator(_none)] = Field(
        default=None, description="mm; a multiple of the brain's own (1 mm for the embedded one); none: its own"
    )
    brain: Annotated[Any, BeforeValidator(_none)] = Field(
        default=None, description="healthy brain of your own, skull-stripped; none: the embedded MNI152 T1"
    )
    labels: Annotated[Any, BeforeValidator(_none)] = Field(default=None, description="label map of that brain")
    deformation: float = Field(default=8.0, ge=0, le=20, description="largest displacement of the bending, mm")
    knots: float = Field(default=36.0, ge=20, description="distance of the control points of the bending, mm")
    growth: Radii = Field(
        default=None,
        description="mean radius of the lesion in the fixed and in the moving image, mm; "
        "none: 8,15, and 14,9 for a resection",
    )
    reach: Millimeters = Field(default=40.0, description="how far from its center a lesion displaces tissue, mm")
    unevenness: float = Field(default=0.15, ge=0, le=0.5, description="lobes of the lesion; 0 is a ball")
    edema: float = Field(
        default=4.0, ge=0, le=20, description="width of the edema round a bright tumor, mm; 0: none"
    )
    noise: float = Field(default=0.02, ge=0, le=1, description="Rician noise, in units of the brightest tissue")
    bias: float = Field(
        default=0.0, ge=0, lt=1, description="relative amplitude of a smooth bias field on the moving image"
    )
    contrast: Literal["same", "gamma", "other"] = Field(
        default="same", description="of the moving image: as the fixed, a monotone change of it, or like a T2"
    )
    thickness: float = Field(
        default=0.0,
        ge=0,
        description="thickness of the patient's slices, mm, as in a clinic: T1 and T1ce axial, T2 coronal, FLAIR "
        "sagittal; 0: voxels are cubes",
    )
    modalities: Annotated[tuple[Literal["t1ce", "t2", "flair"], ...], BeforeValidator(_list)] = Field(
        default=(), description="further scans of both brains, each with noise and bias of its own"
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, raw: Any) -> Any:
        """``dim`` is a choice of integers, which pydantic does not read from text."""
        if isinstance(raw, Mapping) and raw.get("dim") in ("2", "3"):
            return {**raw, "dim": int(raw["dim"])}
        return raw


Range = Annotated[tuple[float, float], BeforeValidator(_pair)]
Kinds = Literal["none", "bright", "lookalike", "resected"]


class BrainsOptions(SampleOptions):
    """Brains of every kind to train on: each draws its lesion, deformation, contrast and scanner from ranges."""

    count: int = Field(default=1, ge=1, description="how many; each in a folder of its own if more than one")
    dim: Literal[2, 3] = Field(default=3, description="3, or 2 for an axial slice")
    spacing: Millimeters = Field(default=2.0, description="mm; a multiple of the anatomy's own")
    labels: Annotated[Any, BeforeValidator(_none)] = Field(
        default=None,
        description="anatomy of your own: a label map, or a folder of them, each painted; none: the embedded MNI152",
    )
    contrast: Literal["t1", "random"] = Field(
        default="t1",
        description="t1: of the embedded brain; random: every tissue its own grey, another for each pair",
    )
    fixed: Literal["template", "deformed"] = Field(
        default="template", description="the healthy anatomy as it is, or bent, too"
    )
    lesions: Annotated[tuple[Kinds, ...], BeforeValidator(_list)] = Field(
        default=("none", "bright", "lookalike", "resected"), min_length=1, description="kinds to draw from"
    )
    height: Range = Field(
        default=(20.0, 20.0),
        description="of a slice: world z, mm, of the embedded brain; of others from their middle",
    )
    deformation: Range = Field(default=(2.0, 10.0), description="largest displacement of the bending, mm")
    bending: Literal["geodesic", "splines"] = Field(
        default="geodesic", description="end of a geodesic of diffeomorphisms, or a free-form deformation"
    )
    sigma: Range = Field(
        default=(12.0, 24.0), description="kernel width of the geodesic, a third of the knots' distance, mm"
    )
    radius: Range = Field(default=(6.0, 18.0), description="mean radius of the lesion in the patient, mm")
    push: Range = Field(
        default=(1.0, 2.0), description="radius that a tumor grew by, or a cavity shrank by, as a factor"
    )
    noise: Range = Field(default=(0.0, 0.04), description="Rician, in units of the brightest tissue")
    bias: Range = Field(default=(0.0, 0.2), description="relative amplitude of the bias field")
    gamma: Range = Field(
        default=(0.85, 1.2), description="power that the moving image's intensities are raised to"
    )
    thickness: Range = Field(
        default=(0.0, 0.0), description="of the moving image's slices along one axis, mm; below the spacing: none"
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, raw: Any) -> Any:
        """``dim`` is a choice of integers, which pydantic does not read from text."""
        if isinstance(raw, Mapping) and raw.get("dim") in ("2", "3"):
            return {**raw, "dim": int(raw["dim"])}
        return raw

    @model_validator(mode="after")
    def _ranges_can_be_drawn_from(self) -> BrainsOptions:
        limits = {
            "deformation": (0, 20), "sigma": (8, 60), "radius": (2, 40), "push": (1, 3), "noise": (0, 1),
            "bias": (0, 0.9), "gamma": (0.3, 3), "thickness": (0, 20), "height": (-200, 200),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}={low:g},{high:g}: must be two numbers, the smaller first, within {least} and {most}"
                )
        return self


class CShapesOptions(SampleOptions):
    """Deformed letters C with a cut, after algorithm 5.2 of Maillard's thesis."""

    count: int = Field(default=1, ge=1, description="how many; each in a folder of its own if more than one")
    cut: Literal["source", "target"] = Field(
        default="source", description="which image is cut: the source (thesis) or the target (ISBI 2022)"
    )
    size: int = Field(default=200, ge=48, description="side of the image, pixels; the C grows with it")
    sigma: float = Field(default=6.0, gt=0, description="of the Gaussian kernel, pixels")
    steps: int = Field(default=60, ge=1, description="time steps of the shooting")
    amplitude: float = Field(
        default=1000.0, ge=0, description="the momentum is uniform within plus and minus this"
    )
    width: Annotated[tuple[Millimeters, Millimeters], BeforeValidator(_pair)] = Field(
        default=(8.0, 20.0), description="range of the width of the cut, pixels at size 200"
    )
    mask_area: float = Field(
        default=1.0, ge=1, le=4, description="area of the mask, in units of the one that just covers the cut"
    )


class GliomasOptions(SampleOptions):
    """Heads with a glioma in T1, T1ce, T2 and FLAIR and BraTS's labels of it, to train segmentation on."""

    count: int = Field(default=1, ge=1, description="how many; each in a folder of its own if more than one")
    spacing: Millimeters = Field(default=2.0, description="mm; a whole number")
    lesion: Literal["lobed", "grown"] = Field(
        default="lobed",
        description="lobed ball with a complete rim that pushes; or grown by reaction and diffusion, its rim broken",
    )
    deformation: Range = Field(default=(2.0, 8.0), description="largest displacement of the head's bending, mm")
    radius: Range = Field(default=(8.0, 20.0), description="of the core, that of a ball of its volume, mm")
    edema: Range = Field(default=(3.0, 14.0), description="mean width of the edema, mm")
    noise: Range = Field(default=(0.01, 0.05), description="Rician, in units of white matter")
    bias: Range = Field(default=(0.0, 0.2), description="relative amplitude of each modality's bias field")

    @model_validator(mode="after")
    def _ranges_can_be_drawn_from(self) -> GliomasOptions:
        limits = {"deformation": (0, 15), "radius": (3, 40), "edema": (0, 40), "noise": (0, 1), "bias": (0, 0.9)}
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}={low:g},{high:g}: must be two numbers, the smaller first, within {least} and {most}"
                )
        return self


class LungsOptions(SampleOptions):
    """Breathing lungs: an inhalation and the exhalation after it, with masks of the lungs and landmarks."""

    count: int = Field(default=1, ge=1, description="how many; each in a folder of its own if more than one")
    dim: Literal[2, 3] = Field(default=3, description="3, or 2 for a coronal slice")
    spacing: float = Field(default=4.0, ge=1, le=12, description="mm")
    excursion: Range = Field(default=(12.0, 36.0), description="way of the diaphragm, mm")
    bending: Range = Field(default=(1.0, 5.0), description="largest displacement of the random part, mm")
    fibrosis: Literal["none", "all", "drawn"] = Field(
        default="drawn", description="who has stiff bases of the lungs: nobody, all, or half of them by chance"
    )
    stiffness: float = Field(
        default=0.35, gt=0, le=1, description="share of the motion that is left at the bases of a fibrotic lung"
    )
    noise: Range = Field(default=(0.01, 0.04), description="Rician, in units of the liver")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, raw: Any) -> Any:
        """``dim`` is a choice of integers, which pydantic does not read from text."""
        if isinstance(raw, Mapping) and raw.get("dim") in ("2", "3"):
            return {**raw, "dim": int(raw["dim"])}
        return raw

    @model_validator(mode="after")
    def _ranges_can_be_drawn_from(self) -> LungsOptions:
        for name, (least, most) in {"excursion": (0, 60), "bending": (0, 12), "noise": (0, 1)}.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}={low:g},{high:g}: must be two numbers, the smaller first, within {least} and {most}"
                )
        return self


def parse(model: type[Options], raw: Mapping[str, Any], name: str) -> Options:
    """Return the options, or say in one go all that is wrong with them.

    Raises:
        ConfigError: One sentence a problem, with the nearest known name.
    """
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError([_sentence(model, name, item) for item in error.errors()]) from None


def _sentence(model: type[BaseModel], name: str, item: Any) -> str:
    key = str(item["loc"][0]) if item["loc"] else name
    if item["type"] == "extra_forbidden":
        known = list(model.model_fields)
        hint = nearest(key, known) or "."
        return f"{key}: sample '{name}' has no such option{hint} It has {', '.join(known)}."
    hint = ""
    if item["type"] == "literal_error":
        choices = model.model_fields[key].annotation
        hint = nearest(str(item["input"]), [str(c) for c in getattr(choices, "__args__", ())])
    seen = item["input"] if not isinstance(item["input"], Path) else str(item["input"])
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}; got {seen!r}{hint or '.'}"
