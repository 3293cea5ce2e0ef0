"""What ``mmtk segment`` is asked, as plain data, and which segmenter is taken where nobody chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from typing_extensions import Self

from mmtk.config import ComponentConfig, InputFile, Preparation, SegmenterPart

__all__ = ["MODALITIES", "STUDENT", "SegmentConfig", "automatic", "scans_of"]

#: In the order in which a network of several takes them.
MODALITIES = ("t1", "t1ce", "t2", "flair")
#: The bundle that finds tumors in a T1 alone, taken by ``mask=auto`` once it is installed.
STUDENT = "kdnet_student"


def _template(raw: Any) -> Any:
    return raw.lower() if isinstance(raw, str) and raw.lower() in ("auto", "none") else raw


def _nifti(path: Path) -> Path:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError("masks are written as NIfTI; let the name end in .nii.gz")
    return path


Template = Annotated[Union[Literal["auto", "none"], InputFile], BeforeValidator(_template)]  # noqa: UP007


class SegmentConfig(Preparation):
    """A segmentation of one patient, described completely."""

    lead: ClassVar[str] = "segmenter"

    segmenter: SegmenterPart = Field(description="what finds the lesion")
    image: InputFile | None = Field(default=None, description="the scan; of several, the first")
    t1: InputFile | None = Field(default=None, description="T1-weighted scan, for a segmenter of several")
    t1ce: InputFile | None = Field(default=None, description="the same with contrast agent")
    t2: InputFile | None = Field(default=None, description="T2-weighted scan")
    flair: InputFile | None = Field(default=None, description="FLAIR scan")
    template: Template = Field(
        default="auto",
        description="healthy image that segmenters compare with; auto: the embedded MNI152 T1, in 3-D; none: nothing",
    )
    out: Annotated[Path, AfterValidator(_nifti)] = Field(
        default=Path("mask.nii.gz"), description="file of the mask; what else is known goes beside it"
    )
    level: float = Field(default=0.5, gt=0, lt=1, description="probability from which a voxel is lesion")
    enhancing: Literal[3, 4] = Field(
        default=4, description="label of the enhancing tumor: 4, as BraTS had it until 2022, or 3"
    )

    @model_validator(mode="after")
    def _there_is_a_scan(self) -> Self:
        if not any(True for _ in scans_of(self)):
            raise ValueError("image: missing; give image=FILE, or t1=, t1ce=, t2=, flair=")
        if self.image is not None and sum(getattr(self, name) is not None for name in MODALITIES) > 3:
            raise ValueError("image: there are t1, t1ce, t2 and flair already; leave image out")
        return self


def scans_of(config: SegmentConfig) -> Iterator[tuple[str, Path]]:
    """Yield the name of each scan that is given, and its file, in the order of a network's channels."""
    if config.image is not None:
        yield "image", config.image
    for name in MODALITIES:
        if (path := getattr(config, name)) is not None:
            yield name, path


class Parts(Protocol):
    """What a catalogue must know to choose a segmenter."""

    @property
    def bundles(self) -> Mapping[str, Any]: ...

    def find(self, family: str, name: str) -> type[ComponentConfig]: ...


def automatic(catalogue: Parts, dim: int) -> tuple[ComponentConfig, ...]:
    """Return the segmenters that ``mask=auto`` asks, one after the other, until one finds something.

    A network that knows tumors goes first where it is installed. It knows only what it was trained on, so that what it
    does not see is looked for by what registration cannot explain.

    Raises:
        ConfigError: No segmenter is installed.
    """
    chosen: list[ComponentConfig] = []
    if dim == 3 and catalogue.bundles.get(STUDENT):
        chosen.append(catalogue.find("segmenter", "network")(kind="network", weights=STUDENT))  # type: ignore[call-arg]
    return (*chosen, catalogue.find("segmenter", "inconsistency")(kind="inconsistency"))
