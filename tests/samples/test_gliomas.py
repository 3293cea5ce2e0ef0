"""Heads with a labeled glioma: what is drawn is what is asked for, and the two generators differ where they say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label

from mmtk.errors import ConfigError
from mmtk.io import read_image
from mmtk.samples import Glioma, gliomas, make
from mmtk.samples.heads import MODALITIES

SPACING = 4.0


def drawn(lesion: str, **options: object) -> list[Glioma]:
    return list(gliomas(**{"count": 4, "seed": 5, "spacing": SPACING, "lesion": lesion, **options}))


@pytest.fixture(scope="module", params=["lobed", "grown"])
def heads(request: pytest.FixtureRequest) -> list[Glioma]:
    return drawn(request.param, radius=(14, 14), noise=(0.0, 0.0), bias=(0.0, 0.0))


def mean(head: Glioma, modality: str, *labels: int) -> float:
    return float(head.images[MODALITIES.index(modality)][np.isin(head.labels, labels)].mean())


def test_labels_are_those_of_brats_within_the_head(heads: list[Glioma]) -> None:
    for head in heads:
        assert head.images.shape == (4, *head.labels.shape) and head.images.dtype == np.float32
        assert set(np.unique(head.labels)) <= {0, 1, 2, 4} and (head.labels == 4).any()
        inside = head.images[0] > 0
        assert bool((inside[head.labels > 0]).all()), "a lesion in the air"
        assert all(np.array_equal(inside, image > 0) for image in head.images)


def test_the_core_has_the_volume_that_was_asked_for(heads: list[Glioma]) -> None:
    for head in heads:
        volume = np.isin(head.labels, (1, 4)).sum() * SPACING**3
        assert volume == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.6)


def test_each_modality_shows_what_it_is_taken_for(heads: list[Glioma]) -> None:
    for head in heads:
        healthy = (head.labels == 0) & (head.images[0] > 0)
        usual = {m: float(np.median(head.images[k][healthy])) for k, m in enumerate(MODALITIES)}
        assert mean(head, "t1ce", 4) > 1.2 * usual["t1ce"]
        assert mean(head, "t1ce", 4) > 1.3 * mean(head, "t1", 4)  # enhancement is on T1ce alone
        assert mean(head, "flair", 2) > 1.2 * usual["flair"]
        if (head.labels == 1).any():  # a tenth of the lobed ones have no necrosis
            assert mean(head, "t2", 1) > 1.2 * usual["t2"]
            assert mean(head, "t1", 1) < usual["t1"]
        assert abs(mean(head, "t1", 2) / usual["t1"] - 1) < 0.35  # edema is hardly seen on T1


def test_a_head_depends_on_seed_and_number_alone() -> None:
    first, again = drawn("lobed", count=3)[2], drawn("lobed", count=4)[2]
    assert np.array_equal(first.images, again.images) and np.array_equal(first.labels, again.labels)
    other = drawn("lobed", count=3, seed=6)[2]
    assert not np.array_equal(first.labels, other.labels)


def test_one_rim_is_complete_and_the_other_broken() -> None:
    # The necrosis of a lobed lesion touches edema and healthy tissue next to nowhere.
    def touching(head: Glioma) -> float:
        core = head.labels == 1
        outside = np.isin(head.labels, (0, 2))
        faces = sum(float((core & np.roll(outside, s, a)).sum()) for a in range(3) for s in (1, -1))
        return faces / max(core.sum(), 1)

    lobed, grown = (np.mean([touching(h) for h in drawn(k, radius=(16, 20))]) for k in ("lobed", "grown"))
    assert lobed < 0.3 * grown


def test_a_grown_lesion_is_in_one_piece() -> None:
    for head in drawn("grown"):
        core = np.isin(head.labels, (1, 4))
        pieces = label(core)[0]
        largest = np.bincount(pieces[core]).max()
        assert largest > 0.9 * core.sum()


def test_files_lie_as_brats_lays_them_out(tmp_path: Path) -> None:
    out = make("gliomas", tmp_path / "many", {"count": "2", "spacing": "8", "lesion": "grown"})
    assert sorted(p.name for p in out.iterdir()) == ["glioma_000", "glioma_001"]
    head = out / "glioma_001"
    names = {f"glioma_001_{kind}.nii.gz" for kind in (*MODALITIES, "seg")} | {"sample.json", "LICENSE.MNI.txt"}
    assert {p.name for p in head.iterdir()} == names
    assert read_image(head / "glioma_001_t1.nii.gz", name="t1").spacing == pytest.approx((8.0, 8.0, 8.0))


def test_ranges_are_checked() -> None:
    with pytest.raises(ConfigError, match="radius=9,3: must be two numbers, the smaller first"):
        gliomas(radius=(9, 3))
    with pytest.raises(ConfigError, match="did you mean 'lobed'"):
        gliomas(lesion="lobes")
