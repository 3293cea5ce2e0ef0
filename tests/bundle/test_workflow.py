"""Bundles under MONAI: the same result as mmtk's own, and every rule of its engines kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmtk
from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.io import Volume, read_displacement, write_image
from mmtk.method import Pair
from mmtk.plugins import installed

# MONAI warns of its own optional parts while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")

#: What optimizes: it takes any images. The learned ones are held to the same by the check that runs them both ways.
BUNDLES = sorted(
    n for n, (folder,) in installed().bundles.items() if not (folder / "configs" / "train.json").is_file()
)

#: Coarse and short: what is tested is the way through, not the result.
SHORT: dict[str, Any] = {"levels": [4.0, 2.0], "iterations": [3, 2], "steps": 4}


def blobs(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> dict[str, str]:
    """Two blobs on an oblique, anisotropic grid, the moving one bent and with a bright lesion."""
    dim = len(shape)
    space = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    bent = space + 0.12 * np.cos(2 * space[::-1])

    def blob(at: np.ndarray) -> np.ndarray:
        return np.exp(-6 * (at**2).sum(0)) + 0.4 * np.exp(-30 * ((at - 0.3) ** 2).sum(0))

    lesion = ((bent + 0.25) ** 2).sum(0) < 0.04
    turn, _ = np.linalg.qr(np.array([[1, 0.2, 0], [-0.2, 1, 0.1 * (dim - 2)], [0, -0.1 * (dim - 2), 1]]))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([*spacing, 1.0][:3])
    like = Volume(blob(space).astype(np.float32), affine)
    files = {}
    for name, voxels in (("moving", blob(bent) + lesion), ("fixed", blob(space)), ("mask", lesion)):
        files[name] = str(folder / f"{name}.nii.gz")
        write_image(files[name], voxels.astype(np.float32), like)
    return files


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> dict[str, str]:
    return blobs(tmp_path_factory.mktemp("plane"), (40, 36), (2.0, 1.5))


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> dict[str, str]:
    return blobs(tmp_path_factory.mktemp("box"), (28, 26, 18), (2.0, 2.0, 3.0))


def configs(bundle: str) -> Path:
    return installed().bundle(bundle) / "configs"


def config_of(bundle: str) -> type[ComponentConfig]:
    """The description of the method that a bundle runs; what it needs may be missing here."""
    kind = json.loads((configs(bundle) / "inference.json").read_text())["network_def"]["method"]["kind"]
    config = installed().find("method", kind)
    if config.missing():
        pytest.skip(config.missing())
    return config


def short(bundle: str) -> dict[str, Any]:
    """What makes a bundle's run short, as far as its method has it."""
    fields = config_of(bundle).model_fields
    some = {key: value for key, value in SHORT.items() if key in fields}
    if "iterations" in some and fields["iterations"].annotation is int:  # a method without levels
        some["iterations"] = 5
    return some


def overrides(bundle: str = "lddmm") -> dict[str, Any]:
    """The same as MONAI takes it."""
    return {f"network_def::method::{key}": value for key, value in short(bundle).items()}


def run(bundle: str, overlay: str = "inference_cpu", **ids: Any) -> None:
    """``python -m monai.bundle run``, within this process."""
    from monai.bundle import run as monai_run

    files = [str(configs(bundle) / f"{name}.json") for name in ("inference", overlay)]
    monai_run(config_file=files, logging_file=False, **ids, **overrides(bundle))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_gives_what_register_gives(bundle, plane, tmp_path):
    run(bundle, **plane, output_dir=str(tmp_path / "out"))
    base = json.loads((configs(bundle) / "inference.json").read_text())
    method = {**base["network_def"]["method"], **short(bundle)}
    normalize = base["preprocessing"]["normalize"]
    found = mmtk.register(**plane, method=method, normalize=normalize, device="cpu")
    found.save(tmp_path / "direct")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "direct").iterdir()}
    assert np.abs(found.displacement).max() > 0.05
    for name in sorted(names):
        if name.endswith(".nii.gz"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "direct" / name).read_bytes(), name
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["method"]["kind"] == method["kind"]
    assert set(record["seconds"]) >= {"prepare", "register", "write"}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_two_commands_give_one_displacement(bundle, box, tmp_path):
    words = [word for name, path in box.items() for word in (f"--{name}", path)]
    words += [word for key, value in overrides(bundle).items() for word in (f"--{key}", str(value))]
    config = configs(bundle) / "inference.json"
    _call("monai.bundle", "run", "--config_file", config, *words, "--output_dir", tmp_path / "monai")
    words = [f"{name}={path}" for name, path in box.items()]
    words += [f"{key}={json.dumps(value)}" for key, value in short(bundle).items()]
    _call("mmtk", "run", f"bundle={bundle}", *words, "--out", tmp_path / "mmtk")
    one, other = (read_displacement(tmp_path / way / "displacement.nii.gz") for way in ("monai", "mmtk"))
    apart = np.tensordot(np.linalg.inv(one.affine[:3, :3]), one.vectors - other.vectors, 1)
    assert np.abs(apart).max() < 1e-4
    assert np.abs(one.vectors).max() > 0.1


def _call(*words: object) -> None:
    quiet = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, env=quiet, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_each_process_of_many_takes_its_own_pairs(plane, tmp_path, monkeypatch):
    pairs = [{"name": f"case{number}", **plane} for number in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    for key, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(
        "metamorph_brats",
        "inference_multi_gpu",
        pairs_file=str(tmp_path / "pairs.json"),
        output_dir=str(tmp_path / "out"),
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case1"]
    assert (tmp_path / "out" / "case1" / "warped.nii.gz").is_file()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_monai_finds_every_property_that_it_requires(bundle):
    config_of(bundle)
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        str(configs(bundle) / "inference.json"),
        meta_file=str(configs(bundle) / "metadata.json"),
        workflow_type="infer",
        logging_file=False,
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert str(workflow.device) in ("cpu", "cuda:0")


def test_the_network_takes_and_gives_what_the_metadata_says():
    from monai.bundle import verify_net_in_out

    folder = configs("metamorph_brats")
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "metadata.json"),
        config_file=str(folder / "inference.json"),
        device="cpu",
        any=12,
        **overrides(),
    )


def test_the_weights_are_an_empty_state_that_fits():
    from mmtk.bundle.workflow import RegistrationNetwork

    for bundle in BUNDLES:
        state = torch.load(configs(bundle).parent / "models" / "model.pt", weights_only=True)
        assert state == {}
        RegistrationNetwork("lddmm").load_state_dict(state)


def _pair(**extras: torch.Tensor) -> Pair:
    torch.manual_seed(0)
    moving, fixed = torch.rand(1, 2, 5, 6), torch.rand(1, 2, 5, 6)
    return Pair(moving, fixed, Grid((5, 6), (2.0, 1.0)), **extras)


@pytest.mark.parametrize("names", [(), ("mask",), ("fixed_mask",), ("mask", "inside"), ("inside",)], ids=str)
def test_a_pair_is_packed_into_channels_and_back(names):
    from mmtk.bundle.workflow import EXTRAS, pack, unpack

    spot = torch.zeros(1, 1, 5, 6)
    spot[..., 2:4, 2:4] = 1
    pair = _pair(**{name: spot for name in names})
    again = unpack(pack(pair), (2.0, 1.0), channels=2)
    assert again.grid == pair.grid
    for name in ("moving", "fixed", *EXTRAS):
        one, other = getattr(pair, name), getattr(again, name)
        assert (one is None and other is None) or torch.equal(one, other)


def test_too_few_or_too_many_channels_are_refused():
    from mmtk.bundle.workflow import unpack

    with pytest.raises(ConfigError, match=r"image: 1 channels; expected 2 \(moving, fixed\) to 5"):
        unpack(torch.zeros(1, 1, 4, 4), (1.0, 1.0))
    with pytest.raises(ConfigError, match="image: 6 channels"):
        unpack(torch.zeros(1, 6, 4, 4), (1.0, 1.0))


def test_a_pair_without_images_is_refused():
    from mmtk.bundle.workflow import PreparePair

    with pytest.raises(ConfigError, match="moving: missing; give --moving FILE\nfixed: missing"):
        PreparePair()({"moving": None, "fixed": None})
