"""Benchmarks of ``mmtk compare``: their settings. pydantic only; the classes are in ``mmtk.study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mmtk.config import ComponentConfig

__all__ = [
    "BENCHMARKS",
    "BrainsConfig",
    "BratsRegConfig",
    "BratsTemplateConfig",
    "CShapesConfig",
    "CardiacConfig",
    "SamplesConfig",
    "TumorBrainConfig",
]

MM: dict[str, Any] = {"unit": "mm"}
Count = Annotated[int, Field(ge=1)]


class CShapesConfig(ComponentConfig):
    """Letters C with a cut, whose true deformation is known: table 5.2 of Maillard's thesis."""

    target = "mmtk.study.synthetic:CShapes"
    kind: Literal["c_shapes"] = "c_shapes"
    count: int = Field(default=20, ge=1, description="how many letters")
    seed: int = Field(
        default=1, ge=0, description="of the letters; 0 and 2 trained the weights that come with mmtk"
    )
    spacing: int = Field(
        default=2,
        ge=1,
        description="pixels of 1 mm along each axis that are averaged into one; the weights know 2",
        json_schema_extra=MM,
    )
    options: dict[str, Any] = Field(default={}, description='of the letters, such as {"mask_area": 2}')


class TumorBrainConfig(ComponentConfig):
    """Brains with a lesion, whose true deformation is known: bright and look-alike tumors, resections."""

    target = "mmtk.study.synthetic:TumorBrain"
    kind: Literal["tumor_brain"] = "tumor_brain"
    kinds: tuple[Literal["bright", "lookalike", "resected"], ...] = Field(
        default=("bright", "lookalike", "resected"),
        min_length=1,
        description="bright core in edema; a tumor as grey as cortex; a cavity with the tissue collapsed",
    )
    spacing: float = Field(
        default=2.0, gt=0, description="of voxels; a multiple of the brain's own, 1", json_schema_extra=MM
    )
    cases: int = Field(default=5, ge=1, description="of each kind")
    dim: Literal[2, 3] = Field(default=3, description="3, or 2 for an axial slice")
    seed: int = Field(default=1, ge=0, description="of the cases, whatever their number")
    options: dict[str, Any] = Field(default={}, description='of the samples, such as {"contrast": "gamma"}')


class BrainsConfig(ComponentConfig):
    """Pairs of brains with label maps, from a folder: Dice, surface distances."""

    target = "mmtk.study.cohorts:Brains"
    kind: Literal["brains"] = "brains"
    folder: Path = Field(description="holds NAME_t1.nii.gz and NAME_labels.nii.gz of each person")
    image: str = Field(default="_t1", description="what follows the name of a person in that of the image")
    labels: str = Field(default="_labels", description="and in that of the label map")
    count: int = Field(default=10, ge=1, description="how many pairs")
    seed: int = Field(default=0, ge=0, description="that draws the pairs")
    strip: bool = Field(default=True, description="cut the images to what is labeled: no skull")


class CardiacConfig(ComponentConfig):
    """Hearts from end-diastole to end-systole, from a folder: Dice and surface distances of the left ventricle."""

    target = "mmtk.study.cohorts:Cardiac"
    kind: Literal["cardiac"] = "cardiac"
    folder: Path = Field(description="holds NAME_ed.nii.gz, NAME_es.nii.gz, NAME_ed_lv.nii.gz, NAME_es_lv.nii.gz")
    count: Count | None = Field(default=None, description="how many hearts, drawn by the seed; none: all")
    seed: int = Field(default=0, ge=0, description="that draws them")
    direction: Literal["ed_es", "es_ed"] = Field(default="ed_es", description="moving and fixed phase")
    names: tuple[str, ...] = Field(
        default=(), description="these hearts alone, such as those that no network was trained on; none: all"
    )


class BratsRegConfig(ComponentConfig):
    """BraTS-Reg, in the challenge's layout: landmark errors, robustness, Jacobians, and published rows."""

    target = "mmtk.study.cohorts:BratsReg"
    kind: Literal["brats_reg"] = "brats_reg"
    folder: Path = Field(description="of the challenge: holds BraTSReg_001, BraTSReg_002, ...")
    modality: Literal["t1ce", "t1", "t2", "flair"] = Field(default="t1ce", description="which scans")
    count: Count | None = Field(default=None, description="how many patients, drawn by the seed; none: all")
    seed: int = Field(default=0, ge=0, description="that draws them")


class BratsTemplateConfig(ComponentConfig):
    """Patients with a tumor onto a healthy template: ventricles, L2 with and without the tumor; thesis table 5.3."""

    target = "mmtk.study.cohorts:BratsTemplate"
    kind: Literal["brats_template"] = "brats_template"
    folder: Path = Field(
        description="holds NAME_t1.nii.gz and NAME_seg.nii.gz of each patient, or folders that do"
    )
    template: Path = Field(description="image of the healthy brain")
    template_ventricles: Path | None = Field(
        default=None, description="its ventricles; Dice, where patients have NAME_ventricles.nii.gz"
    )
    modality: str = Field(default="t1", description="of the patients; as that of the template")
    count: Count | None = Field(default=None, description="how many patients, drawn by the seed; none: all")
    seed: int = Field(default=0, ge=0, description="that draws them")


class SamplesConfig(ComponentConfig):
    """Samples of mmtk as `mmtk sample` makes them, any of them with any of their options."""

    target = "mmtk.study.benchmarks:Samples"
    kind: Literal["samples"] = "samples"
    sample: Literal["c_shapes", "tumor_brain", "brains", "lungs"] = Field(
        default="c_shapes", description="which, as `mmtk sample NAME` makes them"
    )
    count: int = Field(default=10, ge=1, description="how many cases")
    seed: int = Field(default=0, ge=0, description="of the cases, whatever their number")
    options: dict[str, Any] = Field(default={}, description='of the samples, such as {"size": 100}')


#: What the hook returns.
BENCHMARKS: list[type[ComponentConfig]] = [
    CShapesConfig,
    TumorBrainConfig,
    BrainsConfig,
    CardiacConfig,
    BratsRegConfig,
    BratsTemplateConfig,
    SamplesConfig,
]
