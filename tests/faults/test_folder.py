"""A folder in the making: it appears whole, keeps what is not ours, and goes without a trace where it fails."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmtk.errors import ConfigError, ResourceError
from mmtk.io import holds_something, making

OURS = {"image", "old", "run.json"}


def fill(place, text="new"):
    with place.writing() as folder:
        (folder / "image").write_text(text)
        (folder / "run.json").write_text(text)


def make(out, text="new", **options):
    with making(out, ours=OURS, record="run.json", **options) as place:
        fill(place, text)
        assert not out.exists() or options
        place.publish()


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out"


@pytest.fixture
def used(out):
    """A folder with an older result, and with files and folders of somebody else."""
    make(out, "old")
    (out / "old").write_text("of an older run")
    (out / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "deep.txt").write_text("mine, too")
    (out / "link").symlink_to("mine/deep.txt")
    out.chmod(0o750)
    return out


def alone(out):
    """Nothing lies beside the folder."""
    return [p.name for p in out.parent.iterdir()] == [out.name]


KEPT = {"notes.txt": "mine", "mine/deep.txt": "mine, too", "link": "mine, too"}
NEW = {"image": "new", "run.json": "new"}


def test_it_appears_at_the_end(out):
    make(out)
    assert tree(out) == NEW and alone(out)


@pytest.mark.parametrize("how", ["whole", "current", "no rights above", "a mount point", "much in it"])
def test_what_is_not_ours_stays_and_what_is_stale_goes(used, how, monkeypatch):
    mode, inode = used.stat().st_mode, used.stat().st_ino
    if how == "current":
        monkeypatch.chdir(used / "mine")
    elif how == "no rights above":
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != used.parent)
    elif how == "a mount point":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == used)
    elif how == "much in it":
        monkeypatch.setattr("mmtk.io.folders.FEW", 3)
    make(used, overwrite=True)
    assert tree(used) == {**NEW, **KEPT} and alone(used)
    assert used.stat().st_mode == mode and (used / "link").is_symlink()
    assert (used.stat().st_ino == inode) == (how != "whole")


def test_without_hard_links_files_are_copied(used, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    make(used, overwrite=True)
    assert tree(used) == {**NEW, **KEPT}


def test_a_link_to_a_folder_stays_a_link(used, tmp_path):
    (tmp_path / "name").symlink_to(used)
    make(tmp_path / "name", overwrite=True)
    assert (tmp_path / "name").is_symlink() and tree(used) == {**NEW, **KEPT}


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_folder_or_none(used, tmp_path, error):
    before = tree(used)
    for out in (used, tmp_path / "another" / "one"):
        with pytest.raises(type(error)), making(out, ours=OURS, record="run.json", overwrite=True) as place:
            fill(place)
            raise error
    assert tree(used) == before and alone(used)
    assert not (tmp_path / "another").exists()


def test_a_renaming_that_fails_halfway_is_undone(used, monkeypatch):
    before, plain = tree(used), os.rename

    def rename(source, target):
        if Path(source).name == "files":
            raise OSError(errno.EIO, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ResourceError, match="Input/output error"):
        make(used, overwrite=True)
    assert tree(used) == before and alone(used)


def test_a_folder_that_holds_something_is_refused(used):
    before = tree(used)
    with pytest.raises(ConfigError, match="not empty; name another, or add --overwrite"):
        make(used)
    assert tree(used) == before and alone(used)


DIES = """
import os, sys
from pathlib import Path
from mmtk.io import making
out, step = Path(sys.argv[1]), sys.argv[2]
plain = os.rename
def rename(source, target):
    if step == "between" and Path(source).name == "files" and out.name not in os.listdir(out.parent):
        os.kill(os.getpid(), 9)
    plain(source, target)
os.rename = rename
with making(out, ours={"image", "old", "run.json"}, record="run.json", overwrite=True) as place:
    with place.writing() as folder:
        (folder / "image").write_text("new")
        (folder / "run.json").write_text("new")
    if step == "kept":
        (place.partial / "state").write_text("state")
    if step in ("before", "kept"):
        os.kill(os.getpid(), 9)
    if step == "waits":
        print("ready", flush=True)
        sys.stdin.read()
    place.publish()
"""


@pytest.fixture
def dies():
    """Start a process that makes a folder and dies at a step of it."""
    begun = []

    def start(out, step):
        command = [sys.executable, "-c", DIES, str(out), step]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.communicate()


@pytest.mark.parametrize("step", ["before", "between", "kept"])
def test_what_a_killed_process_leaves_is_cleared_away_by_the_next(used, step, dies):
    before = tree(used)
    assert dies(used, step).wait() == -9
    assert used.exists() == (step != "between")
    if step == "between":
        with pytest.raises(ConfigError, match="not empty"):  # the old folder is there again
            make(used)
    assert tree(used) == before
    make(used, overwrite=True)
    assert tree(used) == {**NEW, **KEPT} and alone(used)


def test_what_a_killed_process_has_kept_is_found_if_asked_for(used, dies):
    assert dies(used, "kept").wait() == -9
    with (
        pytest.raises(RuntimeError),
        making(used, ours=OURS, record="run.json", overwrite=True, resume=True) as place,
    ):
        assert place.resumed and (place.partial / "state").read_text() == "state"
        assert not any(place.files.iterdir())
        raise RuntimeError
    with making(used, ours=OURS, record="run.json", overwrite=True, resume=True) as place:
        assert place.resumed  # what is kept outlives a failure, too
        fill(place)
        place.publish()
    assert tree(used) == {**NEW, **KEPT} and alone(used)
    with making(used, ours=OURS, record="run.json", overwrite=True, resume=True) as place:
        assert not place.resumed


def test_two_at_once_the_second_is_refused(used, tmp_path, dies):
    first = dies(used, "waits")
    assert first.stdout.readline() == "ready\n"
    with pytest.raises(ConfigError, match=rf"another run \(process {first.pid}\) is writing to it; wait until"):
        make(used, overwrite=True)
    make(tmp_path / "another")
    first.communicate("")
    assert first.returncode == 0
    assert tree(used) == {**NEW, **KEPT}
    make(used, "newer", overwrite=True)
    assert tree(used)["image"] == "newer"


def test_two_at_once_in_one_process(out):
    with making(out, ours=OURS, record="run.json"), pytest.raises(ConfigError, match="another run"):
        make(out)


@pytest.mark.parametrize("where", ["/proc/self/out", "/dev/null/out"])
def test_a_place_where_no_folder_can_be_made(where):
    with pytest.raises(ConfigError, match=rf"--out {where}: a folder cannot be made there \(.*\); name one that"):
        make(Path(where))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        make(tmp_path / "out")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota is used up")]
)
@pytest.mark.parametrize("kind", ["system", "hdf5"])
def test_a_full_disk_is_told_and_leaves_the_old_folder(used, number, words, kind):
    before = tree(used)
    error = OSError(number, "x") if kind == "system" else RuntimeError(f"write failed: errno = {number}, message")
    with (
        pytest.raises(ResourceError, match=rf"could not be written \({words}; .* free there\); make room"),
        making(used, ours=OURS, record="run.json", overwrite=True) as place,
        place.writing(),
    ):
        fill(place)
        raise error
    assert tree(used) == before and alone(used)


def test_an_error_of_another_kind_passes(out):
    with (
        pytest.raises(RuntimeError, match="a bug"),
        making(out, ours=OURS, record="run.json") as place,
        place.writing(),
    ):
        raise RuntimeError("a bug")


def test_a_folder_that_holds_only_what_a_dead_run_left_is_empty(tmp_path):
    assert not holds_something(tmp_path / "none")
    (tmp_path / ".partial-1").mkdir()
    assert not holds_something(tmp_path)
    (tmp_path / "a").touch()
    assert holds_something(tmp_path)
    shutil.rmtree(tmp_path / ".partial-1")
