"""Several channels, from files to files: which belong together, what is carried, what is compared."""

import json

import nibabel as nib
import numpy as np
import pytest

import mmtk
from mmtk.bundle.plan import make_plan
from mmtk.errors import ConfigError
from mmtk.modalities import channel_names, files_of, modality_of, spread
from mmtk.plugins import installed
from mmtk.registration import run

QUICK = ["levels=4,2", "iterations=4,3"]


def picture(seed, shift=0.0):
    x, y = np.meshgrid(np.arange(40.0), np.arange(36.0), indexing="ij")
    r = np.random.default_rng(seed)
    waves = sum(np.sin((x - shift) * a + y * b + c) for a, b, c in r.uniform(0.15, 0.5, (6, 3)))
    return np.exp(-(((x - 20 - shift) / 13) ** 4) - ((y - 18) / 12) ** 4) * (6 + waves)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Two folders that are named as BraTS names them; the second lacks FLAIR, the first T2."""
    root = tmp_path_factory.mktemp("patients")
    for name, shift, suffixes in (("P1", 2.0, "t1 t1ce flair"), ("P2", 0.0, "t1n t1c t2w")):
        (root / name).mkdir()
        joint = "_" if name == "P1" else "-"
        for seed, suffix in enumerate(suffixes.split()):
            file = root / name / f"{name}{joint}{suffix}.nii.gz"
            nib.save(nib.Nifti1Image(picture(seed, shift).astype("float32"), np.eye(4)), file)
    seg = np.zeros((40, 36), "uint8")
    seg[20:26, 12:18] = 4
    nib.save(nib.Nifti1Image(seg, np.eye(4)), root / "P1" / "P1_seg.nii.gz")
    return root


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("BraTS2021_00002_t1ce.nii.gz", "t1ce"),
        ("BraTS-GLI-00002-000-t1c.nii.gz", "t1ce"),
        ("sub-01_T1w.nii", "t1"),
        ("BraTSReg_001_00_0000_flair.nii.gz", "flair"),
        ("x-t2f.nii.gz", "flair"),
        ("x_seg.nii.gz", "seg"),
        ("anat.nii.gz", None),
        ("t1.png", None),
    ],
)
def test_the_last_word_of_a_name_says_the_modality(name, says):
    assert modality_of(name) == says


def test_channels_without_a_name_are_numbered_and_names_are_used_once():
    assert channel_names(["a_t1.nii", "b.nii", "c_t2.nii"]) == ["t1", "channel2", "t2"]
    assert channel_names(["a_t1.nii", "b_t1.nii"]) == ["channel1", "channel2"]


def test_two_folders_are_matched_by_modality(patient):
    dealt = spread({"moving": str(patient / "P1"), "fixed": str(patient / "P2")})
    assert dealt["moving"].name == "P1_t1.nii.gz" and dealt["fixed"].name == "P2-t1n.nii.gz"
    names = [
        [None if path is None else path.name for path in dealt[f"more_{side}"]] for side in ("moving", "fixed")
    ]
    assert names == [["P1_t1ce.nii.gz", None, "P1_flair.nii.gz"], ["P2-t1c.nii.gz", "P2-t2w.nii.gz", None]]
    assert dealt["mask"].name == "P1_seg.nii.gz"


def test_a_folder_and_a_file_meet_where_the_file_says(patient):
    dealt = spread({"moving": patient / "P1", "fixed": str(patient / "P2" / "P2-t1c.nii.gz")})
    assert dealt["moving"].name == "P1_t1ce.nii.gz"
    assert [path.name for path in dealt["more_moving"]] == ["P1_t1.nii.gz", "P1_flair.nii.gz"]
    assert dealt["more_fixed"] == (None, None)


def test_what_both_have_goes_first_and_takes_its_mask_along():
    dealt = spread({"moving": "a,b", "fixed": "none,c", "mask": "m1,m2"})
    assert (dealt["moving"], dealt["fixed"], dealt["mask"]) == ("b", "c", "m2")
    assert (dealt["more_moving"], dealt["more_fixed"], dealt["more_mask"]) == (
        ("a",),
        (None,),
        ("m1",),
    )


def test_one_file_is_one_image():
    plain = {"moving": "a.nii.gz", "fixed": "b.nii.gz", "mask": "m.nii.gz"}
    assert spread(plain) == plain


def test_what_cannot_be_matched_is_said(patient, tmp_path):
    with pytest.raises(ValueError, match="is a folder without a file that is named as BraTS"):
        files_of(tmp_path)
    (tmp_path / "a_t1.nii.gz").touch()
    (tmp_path / "b_t1.nii.gz").touch()
    with pytest.raises(ValueError, match=r"two files of t1.*more than one visit"):
        files_of(tmp_path)
    with pytest.raises(ValueError, match="no channel in common"):
        spread({"moving": "a,none", "fixed": "none,b"})
    with pytest.raises(ValueError, match="3 masks for 2 channels"):
        spread({"moving": "a,b", "fixed": "c,d", "mask": "1,2,3"})
    with pytest.raises(ConfigError, match="moving: 2 channels, but method=demons registers one"):
        plan(patient, "method=demons", moving="P1/P1_t1.nii.gz,P1/P1_t1ce.nii.gz", fixed="P2/P2-t1n.nii.gz,none")


def plan(root, *settings, **images):
    words = [f"{name}={','.join(str(root / f) if f != 'none' else f for f in text.split(','))}"
             for name, text in images.items()]  # fmt: skip
    return make_plan([*words, *settings], out=root / "unused", overwrite=True, device="cpu", catalogue=installed())


@pytest.fixture(scope="module")
def both(patient, tmp_path_factory):
    config = plan(patient, "method=metamorphosis", "init=none", *QUICK, moving="P1", fixed="P2").ready(0)
    out = tmp_path_factory.mktemp("both") / "out"
    return run(config, out, device="cpu"), out


def test_a_run_carries_every_channel_and_compares_what_both_have(both):
    result, out = both
    files = {path.name for path in out.iterdir()}
    assert {"warped_t1ce.nii.gz", "deformed_t1ce.nii.gz", "appearance_t1ce.nii.gz", "warped_flair.nii.gz"} <= files
    assert "appearance_flair.nii.gz" not in files and not any("t2" in name for name in files)
    assert any("t2: only the fixed side" in note for note in result.notes)
    assert any("flair: only the moving side" in note for note in result.notes)
    metrics = json.loads((out / "metrics.json").read_text())
    channel = metrics["channel_t1ce"]
    assert channel["squared_error_outside"] < channel["squared_error_outside_before"]
    assert channel["appearance_outside_mask"] == 0
    assert "channel_flair" not in metrics
    record = json.loads((out / "run.json").read_text())
    assert set(record["files"]) == files
    assert record["inputs"]["moving (t1ce)"]["path"].endswith("P1_t1ce.nii.gz")


def test_each_channel_is_its_own_scan_through_the_one_map(both, patient):
    result, out = both
    from scipy.ndimage import map_coordinates

    u = result.displacement
    places = np.stack(np.meshgrid(*map(np.arange, u.shape[1:]), indexing="ij")) + u
    scan = nib.load(patient / "P1" / "P1_flair.nii.gz").get_fdata()
    expected = map_coordinates(scan, places, order=1, mode="nearest")
    carried = nib.load(out / "warped_flair.nii.gz").get_fdata()
    assert np.abs(carried - expected).max() < 1e-3
    mask = nib.load(out / "warped_mask.nii.gz").get_fdata()
    change = nib.load(out / "appearance_t1ce.nii.gz").get_fdata()
    assert not change[mask == 0].any() and change.any()


def test_python_takes_lists_too(patient):
    def data(name):
        return nib.load(patient / name)

    channels = mmtk.register(
        moving=[data("P1/P1_t1.nii.gz"), data("P1/P1_t1ce.nii.gz")],
        fixed=[data("P2/P2-t1n.nii.gz"), data("P2/P2-t1c.nii.gz")],
        init="none", levels=(4.0, 2.0), iterations=(4, 3),
    )  # fmt: skip
    assert list(channels.images.channels) == ["channel2"]
    assert channels.prepared.pair.moving.shape[1] == 2


def test_a_missing_channel_changes_nothing(patient):
    alone, carried = (
        mmtk.register(
            moving=moving, fixed=patient / "P2" / "P2-t1n.nii.gz", init="none", levels=(4.0,), iterations=(3,)
        )
        for moving in (
            patient / "P1" / "P1_t1.nii.gz",
            [patient / "P1" / "P1_t1.nii.gz", patient / "P1" / "P1_flair.nii.gz"],
        )
    )
    assert np.array_equal(alone.displacement, carried.displacement)
    assert list(carried.images.channels) == ["flair"]


def test_channels_may_lie_on_grids_of_their_own(patient):
    """A T1ce of half the voxels, and a fixed one that is stored the other way round, mean the same."""
    moving = nib.load(patient / "P1" / "P1_t1ce.nii.gz")
    fixed = nib.load(patient / "P2" / "P2-t1c.nii.gz")
    turned = nib.Nifti1Image(
        np.ascontiguousarray(fixed.get_fdata()[::-1].astype("float32")), np.diag([-1.0, 1, 1, 1])
    )
    turned.affine[0, 3] = 39
    turned = nib.Nifti1Image(turned.get_fdata().astype("float32"), turned.affine)
    t1, t1n = patient / "P1" / "P1_t1.nii.gz", patient / "P2" / "P2-t1n.nii.gz"
    settings = {"init": "none", "levels": (4.0,), "iterations": (3,)}
    straight = mmtk.register(moving=[t1, moving], fixed=[t1n, fixed], **settings)
    flipped = mmtk.register(moving=[t1, moving], fixed=[t1n, turned], **settings)
    assert np.abs(straight.displacement - flipped.displacement).max() < 1e-3
    coarse = nib.Nifti1Image(moving.get_fdata()[::2, ::2].astype("float32"), np.diag([2.0, 2, 1, 1]))
    half = mmtk.register(moving=[t1, coarse], fixed=[t1n, fixed], **settings)
    assert half.images.channels["channel2"].warped.shape == t1n_shape(straight)
    assert np.abs(half.displacement - straight.displacement).max() < 1.0


def t1n_shape(result):
    return result.prepared.fixed.shape


def test_the_same_run_without_mmtks_command_names_every_channel(patient):
    words = plan(patient, "bundle=metamorphosis", moving="P1", fixed="P2").monai_command()
    assert "P1_t1.nii.gz,none," in words.replace(str(patient / "P1") + "/", "") or "none" in words
    assert words.count("P1_t1ce.nii.gz") == 1 and words.count("P2-t1c.nii.gz") == 1
