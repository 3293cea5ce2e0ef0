"""Archives of any kind are unpacked whole and within their folder, or refused with nothing left behind."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mmtk.bundle.archive import Limits, unpack
from mmtk.errors import InputError

Make = Callable[[Path], None]

#: Names of entries that no archive may bring, with what is said of them.
NAMES = {
    "../out.txt": "leads out",
    "configs/../../out.txt": "leads out",
    "/tmp/out.txt": "absolute",
    "//host/share": "absolute",
    "C:/out.txt": "absolute",
    "\\out.txt": "absolute",
    "..\\out.txt": "backslash",
    "a\\..\\b": "backslash",
    "file:stream": "colon",
    "a\nb": "control",
    "a\u202eb": "control",
    "x" * 300: "too long",
    "/".join("a" * 20): "too long",
    "configs/./a": "no name",
    "configs//a": "no name",
    "nul.txt": "no name",
    "a /b": "no name",
    "a./b": "no name",
}


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in entries:
                file.writestr(zipfile.ZipInfo(name), data, method)

    return make


def tarred(*entries: tarfile.TarInfo, data: bytes = b"", mode: str = "w") -> Make:
    def make(path: Path) -> None:
        with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as file:
            for entry in entries:
                entry.size = len(data) if entry.isreg() else 0
                file.addfile(entry, io.BytesIO(data))

    return make


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def zip_link(path: Path) -> None:
    info = zipfile.ZipInfo("configs/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "/etc/passwd")


def zip_that_lies(path: Path) -> None:
    """Says 10 bytes in its directory, and holds 1000."""
    zipped(("a.txt", bytes(1000)), method=zipfile.ZIP_STORED)(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(data)


def zip_encrypted(path: Path) -> None:
    zipped(("a.txt", b"hello"))(path)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)


def tar_with_a_long_header(path: Path) -> None:
    """A header that asks for 200 MB of memory, of zeros that pack to nothing."""
    head = entry("long", tarfile.XHDTYPE)
    head.size = 200 << 20
    with gzip.open(path, "wb") as file:
        file.write(head.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(32):
            file.write(bytes(1 << 20))


def gzip_bomb(path: Path) -> None:
    """A file of 64 MB within 64 kB, before the entry that a reader wants."""
    head = entry("a.bin")
    head.size = 64 << 20
    with gzip.open(path, "wb") as file:
        file.write(head.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))


def cut(make: Make) -> Make:
    def half(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return half


BIG = zipped(("configs/a.json", bytes(64 << 20)))

HOSTILE: dict[str, tuple[Make, str]] = {
    **{f"zip {name[:12]!r}": (zipped((name, b"x")), what) for name, what in NAMES.items()},
    **{f"tar {name[:12]!r}": (tarred(entry(name), data=b"x"), what) for name, what in NAMES.items()},
    "zip link": (zip_link, "link or a device"),
    "zip bomb": (BIG, "would become more than"),
    "zip that lies": (zip_that_lies, "damaged archive|cannot be unpacked"),
    "zip encrypted": (zip_encrypted, "encrypted"),
    "zip lzma": (zipped(("a", b"x"), method=zipfile.ZIP_LZMA), "rare way"),
    "zip cut": (cut(zipped(("a", bytes(range(256)) * 9))), "damaged archive"),
    "zip empty": (zipped(), "is empty"),
    "zip other case": (zipped(("configs/A", b"1"), ("configs/a", b"2")), "twice"),
    "zip file as folder": (zipped(("a", b"1"), ("a/b", b"2")), "twice"),
    "zip folder as file": (zipped(("a/b", b"1"), ("a", b"2")), "twice"),
    "tar symlink": (tarred(entry("a", tarfile.SYMTYPE, "/etc")), "link or a device"),
    "tar symlink, then through it": (
        tarred(entry("a", tarfile.SYMTYPE, ".."), entry("a/b")),
        "link or a device",
    ),
    "tar hard link": (tarred(entry("a", tarfile.LNKTYPE, "/etc/passwd")), "link or a device"),
    "tar pipe": (tarred(entry("a", tarfile.FIFOTYPE)), "link or a device"),
    "tar device": (tarred(entry("a", tarfile.CHRTYPE)), "link or a device"),
    "tar sparse": (tarred(entry("a", tarfile.GNUTYPE_SPARSE)), "link or a device|damaged"),
    "tar twice": (tarred(entry("a"), entry("a")), "twice"),
    "tar long header": (tar_with_a_long_header, "a header of|becomes more"),
    "tar.gz bomb": (gzip_bomb, "would become more than"),
    "tar.gz cut": (cut(tarred(entry("a"), data=bytes(range(256)) * 99, mode="w:gz")), "damaged|cannot"),
    "tar.xz": (tarred(entry("a"), data=b"x", mode="w:xz"), "neither a zip nor a tar"),
    "no archive": (lambda path: path.write_bytes(b"hello") and None, "neither a zip nor a tar"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_with_nothing_left_behind(name, tmp_path):
    make, message = HOSTILE[name]
    archive = tmp_path / "archive"
    make(archive)
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(InputError, match=message):
        unpack(archive, place / "bundle")
    assert not list(place.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "place"}


def test_there_are_more_files_than_may_be(tmp_path):
    zipped(*[(f"a{at}", b"") for at in range(12)])(tmp_path / "a.zip")
    with pytest.raises(InputError, match="more than 10 files"):
        unpack(tmp_path / "a.zip", tmp_path / "b", Limits(files=10))
    unpack(tmp_path / "a.zip", tmp_path / "b", Limits(files=12))


def test_what_is_there_is_not_written_over(tmp_path):
    zipped(("a", b"x"))(tmp_path / "a.zip")
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists; give a new folder"):
        unpack(tmp_path / "a.zip", tmp_path / "b")


FILES = {"configs/inference.json": b"{}", "docs/README.md": b"# A", "models/model.pt": bytes(range(256)) * 20}


@pytest.mark.parametrize("top", ["", "bundle/", "./", "./bundle/"])
@pytest.mark.parametrize("form", ["zip", "w", "w:gz"])
def test_an_honest_archive_comes_out_as_it_went_in(form, top, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "deep" / "out"
    named = {f"{top}{name}": data for name, data in FILES.items()}
    if form == "zip":
        zipped(*named.items())(archive)
    else:
        with tarfile.open(archive, form) as file:
            for name, data in named.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    assert unpack(archive, out) == out
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == FILES
    assert {path.name for path in out.parent.iterdir()} == {"out"}
