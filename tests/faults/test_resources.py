"""Memory and disks that give out, and a map that folds: a sentence, the right exit code, nothing half written."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
import typer

import mmtk
from mmtk.bundle.plan import make_plan
from mmtk.cli import main
from mmtk.cli.refusal import refusals
from mmtk.errors import ConfigError, InputError, ResourceError
from mmtk.io import available_memory, check_memory, check_run_memory, memory, read_image
from mmtk.method import Method
from mmtk.plugins import installed
from mmtk.registration import Result, save
from mmtk.result import Registration


def called(capsys, *words):
    with pytest.raises(SystemExit) as done:
        main(["run", "bundle=metamorph_brats", "init=none", "levels=8", "iterations=2", "--device", "cpu", *words])
    return done.value.code, capsys.readouterr().err


def limited(start, pair, out, **options):
    """Run with a limit on the size of a file, which is what a full disk looks like to a writer."""
    size = options.get("size", 4096)
    return start(
        *pair, "--out", out, before=f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size},) * 2)"
    )


@pytest.mark.parametrize("size", [300, 9000])
def test_a_file_that_may_not_grow_leaves_nothing(size, pair, start, tmp_path):
    out = tmp_path / "out"
    process = limited(start, pair, out, size=size)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith(f"error: --out {out}: the results could not be written (a file grew too large; ")
    assert err.count("\n") == 1 and not out.exists()
    assert all(not (folder / "files").exists() for folder in tmp_path.glob(".out.partial-*"))


@pytest.mark.parametrize("size", [24, 96])
@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_leaves_nothing(size, pair, start, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("this system does not let us mount")
    try:
        process = start(*pair, "--out", disk / "out")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "could not be written (the disk is full; " in err and "MB are free there)" in err
        assert err.count("\n") == 1
        assert not (disk / "out").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.EIO, "Input/output error", "/a/b"), 1, "error: '/a/b': Input/output error; check the disk"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            1,
            "error: '/a': Permission denied; check the disk",
        ),
        (MemoryError("Unable to allocate 9 GiB"), 1, "error: memory ran out (Unable to allocate 9 GiB); crop or"),
        (InputError(["one", "two"]), 2, "error: one\nerror: two"),
        (ResourceError("gone"), 1, "error: gone"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_every_command_turns_what_a_system_refuses_into_a_line_and_a_code(error, code, says, capsys):
    with pytest.raises(typer.Exit) as done, refusals():
        raise error
    told = capsys.readouterr().err
    assert done.value.exit_code == code and told.startswith(says) and told.count("\n") == says.count("\n") + 1


def test_a_place_that_may_not_be_written_to_is_refused_before_anything_is_computed(pair, method, capsys):
    method(AssertionError("computed"))
    code, err = called(capsys, *pair, "--out", "/proc/self/out")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: --out /proc/self/out: a folder cannot be made there (")


def test_a_folder_with_nothing_but_the_sample_of_a_run_that_was_stopped_is_free(tmp_path):
    (tmp_path / "out" / "sample").mkdir(parents=True)
    plan = make_plan(
        ["bundle=metamorph_brats"], out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed()
    )
    assert plan.sample == "tumor_brain"
    (tmp_path / "out" / "run.json").touch()
    with pytest.raises(ConfigError, match="the folder is not empty"):
        make_plan(
            ["bundle=metamorph_brats"], out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed()
        )


def header_only(path, shape):
    """A file of ``shape`` that takes no room: all of it is a hole."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header.set_sform(np.diag([0.5, 0.5, 0.5, 1]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 4 * int(np.prod(shape, dtype=np.int64)))
    return path


def test_twenty_gigabytes_on_a_small_machine_are_refused_before_they_are_read(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 4_000_000_000)
    large = header_only(tmp_path / "large.nii", (1720, 1720, 1720))
    assert large.stat().st_size > 20e9
    other = header_only(tmp_path / "other.nii", (100, 100, 100))
    code, err = called(capsys, f"moving={other}", f"fixed={large}", "--out", str(tmp_path / "out"))
    assert code == 2 and err.count("\n") == 1
    assert "claims 5,088,448,000 voxels (1720, 1720, 1720), but 2,147,483,647 are the most that mmtk takes" in err
    large = header_only(tmp_path / "large.nii", (1200, 1200, 1200))
    code, err = called(capsys, f"moving={other}", f"fixed={large}", "--out", str(tmp_path / "out"))
    assert code == 2 and err.count("\n") == 1
    assert "to register 1,000,000 voxels onto 1,728,000,000 needs about 311.4 GB of memory, and 4.0 GB are" in err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"voxels of .* needs about 20.7 GB of memory, and 4.0 GB are free; crop"):
        read_image(large)


def test_free_memory_is_what_the_system_says(tmp_path):
    with open("/proc/meminfo") as file:
        total = 1024 * int(file.readline().split()[1])
    assert 0 < available_memory() <= 2 * total
    limit = resource.getrlimit(resource.RLIMIT_AS)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9,) * 2)\n"
        "from mmtk.io import available_memory; print(available_memory())"
    )
    told = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < told < 2e9 and resource.getrlimit(resource.RLIMIT_AS) == limit


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(version, tmp_path, monkeypatch):
    """The group's limit, or that of one above it, less what is in use and cannot be given back."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    inner = (groups / "memory" if version == 1 else groups) / "pod" / "box"
    (proc / "self").mkdir(parents=True)
    inner.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable: 50000000 kB\nSwapFree: 1000000 kB\n")
    (proc / "self" / "cgroup").write_text("4:cpu:/\n3:memory:/pod/box\n" if version == 1 else "0::/pod/box\n")
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    (inner / limit).write_text("9223372036854771712\n" if version == 1 else "max\n")
    (inner / used).write_text("600\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_GROUPS", groups)
    monkeypatch.setattr(memory, "_process", lambda: iter(()))
    assert available_memory() == 51_000_000 * 1024
    (inner.parent / limit).write_text("1000\n")
    (inner.parent / used).write_text("700\n")
    (inner.parent / "memory.stat").write_text("anon 10\ninactive_file 150\n")
    assert available_memory() == 1000 - 700 + 150


def test_what_fits_is_not_refused():
    check_memory(1, "this", "that")
    check_run_memory(200, 200)
    with pytest.raises(InputError, match=r"this needs about 1,000,000.0 GB of memory, and .* are free; that"):
        check_memory(1e15, "this", "that")


class _Fails(Method):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def register(self, pair, progress=None):
        if callable(self.error):
            return self.error(pair)
        raise self.error


@pytest.fixture
def method(monkeypatch):
    """Put a method of ours in place of the one that is asked for."""

    def put(error):
        monkeypatch.setattr("mmtk.config.ComponentConfig.build", lambda self, **context: _Fails(error))

    return put


def too_much(pair):
    return torch.empty(1 << 50)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
            r" \(asked for 20.00 GiB\)",
        ),
        (too_much, r" \(asked for \d+ bytes\)"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_memory_that_runs_out_is_told_and_the_exit_code_is_1(error, asked, method, pair, tmp_path, capsys):
    method(error)
    with pytest.raises(ResourceError, match=rf"^memory ran out while registering{asked}: crop or downsample"):
        mmtk.register(moving=pair[0][7:], fixed=pair[1][6:], init="none")
    code, err = called(capsys, *pair, "--out", str(tmp_path / "a" / "out"))
    assert code == 1 and err.startswith("error: memory ran out while registering") and err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_mistake_of_ours_is_not_taken_for_memory(method, pair):
    method(RuntimeError("shapes cannot be broadcast"))
    with pytest.raises(RuntimeError, match="broadcast"):
        mmtk.register(moving=pair[0][7:], fixed=pair[1][6:], init="none")


def test_a_hundred_thousand_folds_come_to_an_end_and_are_told(method, tmp_path):
    """A method that hands back noise: every part that comes after it has to bear it."""
    shape = (60, 60, 60)
    rng = np.random.default_rng(0)

    def noise(pair):
        wild = torch.from_numpy(rng.normal(scale=20, size=(1, 3, *shape)).astype(np.float32))
        return Registration(pair.grid, wild, -wild, None, {"noise": wild}, ())

    method(noise)
    images = [rng.random(shape, dtype=np.float32) for _ in range(2)]
    result = mmtk.register(moving=images[0], fixed=images[1], init="none")
    folds = result.metrics["deformation"]["folds"]
    assert folds >= 90_000
    assert f"the map folds at {folds:,} voxels, so it has no inverse there; ask the method" in result.notes[-1]
    out = save(result, tmp_path / "out")
    record = json.loads((out / "run.json").read_text())
    assert set(record["files"]) == {path.name for path in out.iterdir()}
    assert result.notes[-1] in record["notes"]


def test_a_hostile_pair_comes_to_an_end(tmp_path, capsys):
    """Two images of noise, hardly any regularization: there is nothing to find, and that must not take for ever."""
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(24, 22, 20)).astype(np.float32) for _ in range(2)]
    result = mmtk.register(
        moving=images[0], fixed=images[1], init="none", **{"lambda": 1e-12}, levels=(2.0, 1.0), iterations=(8, 8)
    )
    assert isinstance(result, Result) and np.isfinite(result.displacement).all()
    folds = result.metrics["deformation"]["folds"]
    assert folds == 0 or any("fold" in note for note in result.notes)
