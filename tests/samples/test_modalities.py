"""Further scans of one patient: the same head and lesion, seen otherwise."""

import numpy as np
import pytest

from mmtk.errors import ConfigError
from mmtk.samples import make, tumor_brain

ALL = ("t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def pair():
    return tumor_brain(spacing=4.0, seed=1, modalities=ALL, noise=0.0)


def test_further_scans_leave_the_first_one_alone(pair):
    alone = tumor_brain(spacing=4.0, seed=1, noise=0.0)
    assert np.array_equal(alone.moving, pair.moving) and np.array_equal(alone.fixed, pair.fixed)
    assert not alone.channels and tuple(pair.channels) == ALL


def test_fluid_is_bright_on_t2_and_dark_on_flair(pair):
    def mean(image, label):
        return float(image[pair.labels_fixed == label].mean())

    csf, white = 1, 3
    assert mean(pair.fixed, csf) < mean(pair.fixed, white)
    assert mean(pair.channels["t2"][1], csf) > 1.3 * mean(pair.channels["t2"][1], white)
    assert mean(pair.channels["flair"][1], csf) < mean(pair.channels["flair"][1], white)


def test_every_scan_has_the_same_head_and_the_lesion_in_it(pair):
    for moving, fixed in pair.channels.values():
        assert moving.shape == fixed.shape == pair.fixed.shape
        assert np.array_equal(moving > 0, pair.moving > 0)
        healthy = np.abs(moving[pair.mask].mean() - fixed[pair.fixed_mask].mean())
        assert healthy > 0.02 * fixed.max()


def test_each_scan_has_noise_of_its_own():
    noisy = tumor_brain(spacing=4.0, seed=1, modalities=("t1ce",), noise=0.05)
    clean = tumor_brain(spacing=4.0, seed=1, modalities=("t1ce",), noise=0.0)
    head = clean.moving > 0.2 * clean.moving.max()
    ours, theirs = (
        (noisy.moving - clean.moving)[head],
        (noisy.channels["t1ce"][0] - clean.channels["t1ce"][0])[head],
    )
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.05
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


def test_thick_slices_blur_across_and_not_along(pair):
    thick = tumor_brain(spacing=4.0, seed=1, modalities=ALL, noise=0.0, thickness=12.0)

    def smoother(image, other):
        return [float(np.diff(image, axis=a).std() / np.diff(other, axis=a).std()) for a in range(3)]

    assert np.argmin(smoother(thick.moving, pair.moving)) == 2
    assert np.argmin(smoother(thick.channels["t2"][0], pair.channels["t2"][0])) == 1
    assert np.argmin(smoother(thick.channels["flair"][0], pair.channels["flair"][0])) == 0
    assert np.array_equal(thick.fixed, pair.fixed)


def test_the_folder_holds_every_scan(tmp_path):
    folder = make("tumor_brain", tmp_path / "p", {"spacing": "4", "modalities": "t2,flair"})
    names = {path.name for path in folder.iterdir()}
    assert {"moving_t2.nii.gz", "fixed_t2.nii.gz", "moving_flair.nii.gz", "fixed_flair.nii.gz"} <= names
    with pytest.raises(ConfigError, match="modalities"):
        make("tumor_brain", tmp_path / "q", {"modalities": "pd"})
