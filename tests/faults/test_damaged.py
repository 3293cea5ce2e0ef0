"""Hundreds of damaged images: each is refused in one sentence or read as it stands, never a traceback, never a hang."""

import bz2
import contextlib
import gzip
import signal
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mmtk.cli import main
from mmtk.errors import MmtkError
from mmtk.io import Volume, probe_image, read_image, read_mask

SHAPE = (7, 6, 5)
SECONDS = 10

#: Bytes of the fields of a NIfTI-1 header, and how they are packed.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"), "qoffset_x": (268, "f"),
    "srow_x": (280, "4f"), "srow_y": (296, "4f"), "magic": (344, "4s"),
}  # fmt: skip


def voxels(dtype=np.int16):
    return np.random.default_rng(1).integers(0, 2, SHAPE).astype(dtype)


def sound(dtype=np.int16, *, form=nibabel.Nifti1Image, order="<"):
    """The bytes of an image with nothing wrong with it, 1.5 x 2 x 3 mm, both forms set."""
    affine = np.array([[-1.5, 0, 0, 4], [0, 2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1.0]])
    if form is nibabel.MGHImage:
        return form(voxels(dtype), affine).to_bytes()
    header = form.header_class(endianness=order)
    image = form(voxels(dtype), affine, header, dtype=np.dtype(dtype))
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image.to_bytes()


def patched(data, **fields):
    data = bytearray(data)
    for name, value in fields.items():
        at, how = FIELDS[name]
        struct.pack_into("<" + how, data, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(data)


def gzipped(data):
    return gzip.compress(data, 6, mtime=0)


def bomb(megabytes):
    """A small gzip of many zeros, made piece by piece."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(megabytes)) + packer.flush()


def geometry():
    good = sound()
    nan, inf = float("nan"), float("inf")
    for name, value in {"0": 0.0, "negative": -2.0, "nan": nan, "inf": inf, "huge": 3e38, "tiny": 1e-30}.items():
        for axis in (1, 2, 3):
            pixdim = [1.0, 1.5, 2.0, 3.0, 0, 0, 0, 0]
            pixdim[axis] = value
            yield f"pixdim-{axis}-{name}", patched(good, pixdim=tuple(pixdim))
            yield f"pixdim-{axis}-{name}-qform", patched(good, pixdim=tuple(pixdim), sform_code=0)
    for qfac in (0.0, -1.0, 7.0, nan):
        yield f"qfac-{qfac}", patched(good, pixdim=(qfac, 1.5, 2, 3, 0, 0, 0, 0), sform_code=0)
    for name, row in {
        "zero": (0, 0, 0, 0), "nan": (nan, 0, 0, 0), "inf": (inf, 0, 0, 0), "parallel": (0, 2.0, 0, 5),
        "offset-nan": (1.5, 0, 0, nan), "offset-huge": (1.5, 0, 0, 3e38), "almost": (1e-20, 0, 0, 0),
        "sheared": (1.5, 1.0, 0, 0), "huge": (3e38, 0, 0, 0),
    }.items():  # fmt: skip
        yield f"sform-{name}", patched(good, srow_x=row)
        yield f"sform-{name}-alone", patched(good, srow_x=row, qform_code=0)
    for code in (-3, 0, 5, 99):
        yield f"sform-code-{code}", patched(good, sform_code=code)
        yield f"qform-code-{code}", patched(good, qform_code=code, sform_code=0)
    for name, value in {"nan": nan, "long": 5.0, "inf": inf}.items():
        yield f"quaternion-{name}", patched(good, quatern_b=value, sform_code=0)
        yield f"quaternion-{name}-beside-sform", patched(good, quatern_b=value)
    yield "qoffset-nan", patched(good, qoffset_x=nan, sform_code=0)
    yield "forms-disagree", patched(good, srow_x=(9.0, 0, 0, 200))
    yield "no-forms", patched(good, sform_code=0, qform_code=0)
    for unit in (0, 1, 3, 7, 255):
        yield f"units-{unit}", patched(good, xyzt_units=unit)


def header():
    good = sound()
    for name, value in {
        "0": 0.0, "short": 10.0, "negative": -352.0, "beyond": 5000.0, "nan": float("nan"), "odd": 353.0,
        "inf": float("inf"), "far": 3e9,
    }.items():  # fmt: skip
        yield f"offset-{name}", patched(good, vox_offset=value)
    for code in (0, 1, 3, 5, 32, 128, 255, 256, 511, 999, 1024, 1536, 1792, 2048, 2304, -1):
        yield f"datatype-{code}", patched(good, datatype=code)
    for bits in (0, -1, 7, 4096):
        yield f"bitpix-{bits}", patched(good, bitpix=bits)
    for name, value in {
        "none": (0, 7, 6, 5, 1, 1, 1, 1), "nine": (9, 7, 6, 5, 1, 1, 1, 1), "negative": (3, -7, 6, 5, 1, 1, 1, 1),
        "minus": (-3, 7, 6, 5, 1, 1, 1, 1), "zero": (3, 0, 6, 5, 1, 1, 1, 1),
        "huge": (3, 32767, 32767, 32767, 1, 1, 1, 1),
        "large": (3, 1200, 1200, 1200, 1, 1, 1, 1), "bit-more": (3, 8, 6, 5, 1, 1, 1, 1),
        "less": (3, 5, 6, 5, 1, 1, 1, 1), "one": (1, 210, 6, 5, 1, 1, 1, 1), "two": (2, 42, 5, 1, 1, 1, 1, 1),
        "four": (4, 7, 6, 5, 1, 1, 1, 1), "series": (4, 7, 3, 5, 2, 1, 1, 1), "seven": (7, 7, 6, 5, 1, 1, 1, 1),
        "slice": (3, 42, 5, 1, 1, 1, 1, 1), "line": (3, 210, 1, 1, 1, 1, 1, 1), "voxel": (3, 1, 1, 1, 1, 1, 1, 1),
    }.items():  # fmt: skip
        yield f"dim-{name}", patched(good, dim=value)
    for name, value in {
        "0": 0.0,
        "nan": float("nan"),
        "inf": float("inf"),
        "huge": 3e38,
        "tiny": 1e-44,
        "-1": -1.0,
    }.items():
        yield f"slope-{name}", patched(good, scl_slope=value)
        yield f"intercept-{name}", patched(good, scl_slope=1.0, scl_inter=value)
    for magic in (b"n+2\0", b"ni1\0", b"\0\0\0\0", b"abcd", b"n+1x"):
        yield f"magic-{magic.hex()}", patched(good, magic=magic)
    for size in (0, -348, 349, 540, 1 << 30):
        yield f"sizeof-{size}", patched(good, sizeof_hdr=size)


def types():
    for kind in ("u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16"):
        yield f"type-{kind}", sound(kind)
        yield f"big-endian-{kind}", sound(kind, order=">")
    for names in ("RGB", "RGBA"):
        colors = np.zeros(SHAPE, [(name, "u1") for name in names])
        yield f"type-{names}", nibabel.Nifti1Image(colors, np.eye(4)).to_bytes()
    for name, value in {"nan": np.nan, "inf": np.inf, "large": 1e300}.items():
        data = voxels("f8")
        data[1, 2, 3] = value
        yield f"voxel-{name}", nibabel.Nifti1Image(data, np.eye(4)).to_bytes()
    for value in (0, 1, -5):
        data = np.full(SHAPE, value, "i2")
        yield f"constant-{value}", nibabel.Nifti1Image(data, np.eye(4)).to_bytes()
    yield "nifti-2", sound(form=nibabel.Nifti2Image)
    yield "mgh-renamed", sound("f4", form=nibabel.MGHImage)
    yield "extension-without-end", patched(sound(), vox_offset=352.0)[:348] + b"\1\0\0\0" + bytes(60)
    long = sound()[:348] + b"\1\0\0\0" + struct.pack("<ii", 1 << 30, 4) + sound()[352:]
    yield "extension-too-long", long
    yield "extension-negative", sound()[:348] + b"\1\0\0\0" + struct.pack("<ii", -16, 4) + sound()[352:]


def strangers():
    text = b"Dear colleague, the scan is in the other folder.\n" * 20
    dicom = bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0\xc8\0\0\0" + bytes(400)
    for name, data in {
        "text": text, "dicom": dicom, "zip": b"PK\3\4" + bytes(600), "png": b"\x89PNG\r\n\x1a\n" + bytes(600),
        "html": b"<!doctype html><title>404</title>" * 30, "nrrd": b"NRRD0004\ntype: short\n" * 30, "zeros": bytes(900),
        "ones": b"\xff" * 900, "byte": b"\0", "hdf": b"\x89HDF\r\n\x1a\n" + bytes(600), "matlab": b"MATLAB 5.0 " * 60,
        "pickle": b"\x80\x04\x95" + bytes(500), "empty": b"",
    }.items():  # fmt: skip
        yield f"{name}-as-nii", data
        yield f"{name}-as-gz", data
        yield f"{name}-within-gz", gzipped(data)
        yield f"{name}-as-mgz", data
    for name in ("text", "zeros"):
        for suffix in ("png", "tif", "jpg", "hdr", "img", "mgh", "mnc", "rec", "gii"):
            yield f"{name}-as-{suffix}", text if name == "text" else bytes(900)


def cut():
    good = sound("f4")
    packed = gzipped(good)
    rng = np.random.default_rng(2)
    for size in (1, 4, 100, 347, 348, 351, 352, 353, 800, len(good) - 1):
        yield f"cut-{size}", good[:size]
        yield f"cut-then-gzip-{size}", gzipped(good[:size])
    for size in (1, 2, 9, 10, 18, 100, len(packed) // 2, len(packed) - 9, len(packed) - 8, len(packed) - 1):
        yield f"gzip-cut-{size}", packed[:size]
    for number in range(40):
        flipped = bytearray(packed)
        for _ in range(1 + number % 4):
            flipped[rng.integers(len(packed))] ^= 1 << int(rng.integers(8))
        yield f"gzip-flip-{number}", bytes(flipped)
    for number in range(40):
        flipped = bytearray(good)
        for _ in range(1 + number % 4):
            flipped[rng.integers(352)] ^= 1 << int(rng.integers(8))
        yield f"flip-{number}", bytes(flipped)
    yield "gzip-twice", gzipped(packed)
    yield "gzip-and-rubbish", packed + b"rubbish at the end"
    yield "gzip-of-two", packed + packed
    large = patched(good[:352], dim=(3, 1024, 1024, 1024, 1, 1, 1, 1))
    yield "gzip-claims-4-gigabytes", gzipped(large)
    yield "claims-4-gigabytes", large
    # The first holds a whole image and goes on for 200 MB; the second is the 200 MB that it says, of zeros.
    yield "bomb-gzip", gzipped(good) + bomb(200)
    yield "bomb-within-gzip", gzipped(good[:352]) + bomb(20)
    yield (
        "bomb-bz2-as-nii.bz2",
        bz2.compress(patched(good[:352], dim=(3, 256, 256, 256, 1, 1, 1, 1)) + bytes(20 << 20)),
    )


def corpus():
    cases = {}
    for part in (geometry, header, types, strangers, cut):
        for name, data in part():
            suffix = "nii.gz" if "gzip" in name or name.endswith("-gz") else "nii"
            if "-as-" in name and not name.endswith(("-as-gz", "-as-nii")):
                suffix = name.rpartition("-as-")[2]
            assert name not in cases, name
            cases[name] = (data, suffix)
    return cases


CORPUS = corpus()


@contextlib.contextmanager
def hanging_is_an_error():
    def stop(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(call):
    """Return what was read, or None where it was refused; anything else than that is an error of the test."""
    with hanging_is_an_error():
        try:
            found = call()
        except MmtkError as error:
            words = str(error)
            assert "\n" not in words and len(words) > 40 and "Error(" not in words
            return None
    assert len(found.shape) in (2, 3) and min(found.shape) > 1
    assert np.isfinite(found.affine).all() and abs(np.linalg.det(found.affine)) > 0
    if isinstance(found, Volume):
        assert np.isfinite(found.data).all()
    return found


def write(folder: Path, name: str) -> Path:
    data, suffix = CORPUS[name]
    path = folder / f"image.{suffix}"
    path.write_bytes(data)
    return path


def test_the_corpus_is_large():
    assert len(CORPUS) >= 300


@pytest.mark.parametrize("name", CORPUS)
def test_a_damaged_image_is_refused_in_a_sentence_or_read(name, tmp_path):
    path = write(tmp_path, name)
    whole = Volume(voxels("f4") + np.arange(7, dtype="f4")[:, None, None], np.diag([-1.5, 2, 3, 1]))
    header = attempt(lambda: probe_image(path, name="moving"))
    for role in ("moving", "fixed"):
        image = attempt(lambda role=role: read_image(path, name=role))
        if image is not None:
            assert header is not None and header.shape == image.shape
            np.testing.assert_array_equal(header.affine, image.affine)
    attempt(lambda: read_mask(path, like=whole))


@pytest.mark.parametrize("name", [name for name in CORPUS if name.startswith("gzip-")])
def test_wrong_bits_in_a_gzipped_file_never_pass_for_voxels(name, tmp_path):
    """Its checksum tells: what is read from such a file is what was written, or nothing."""
    image = attempt(lambda: read_image(write(tmp_path, name)))
    if image is not None:
        np.testing.assert_array_equal(image.data, voxels("f4"))


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_sound_image_is_read_as_itk_reads_it(kind, order, suffix, tmp_path):
    data = sound(kind, order=order)
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(gzipped(data) if suffix.endswith("gz") else data)
    ours, theirs = read_image(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(ours.data, sitk.GetArrayFromImage(theirs).T.astype(np.float32))
    np.testing.assert_allclose(ours.spacing, theirs.GetSpacing(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_long_whole_numbers_are_read(kind, tmp_path):
    (tmp_path / "image.nii").write_bytes(sound(kind))
    np.testing.assert_array_equal(read_image(tmp_path / "image.nii").data, voxels("f4"))


@pytest.mark.parametrize("name", ["nifti-2", "forms-disagree", "gzip-of-two", "units-0"])
def test_what_is_only_odd_is_read(name, tmp_path):
    np.testing.assert_array_equal(read_image(write(tmp_path, name)).data.round(), voxels("f4"))


TYPED = [
    ("moving", "gzip-cut-100"), ("fixed", "text-as-nii"), ("mask", "dicom-as-nii"), ("moving", "dim-large"),
    ("fixed", "type-c8"), ("moving", "sform-nan"), ("mask", "gzip-flip-3"), ("moving", "empty-as-gz"),
    ("fixed", "gzip-claims-4-gigabytes"), ("moving", "datatype-999"), ("mask", "constant-0"), ("moving", "voxel-nan"),
    ("fixed", "offset-beyond"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "name"), TYPED)
def test_the_command_refuses_with_2_and_makes_no_folder(role, name, tmp_path, capsys):
    paths = {}
    for key in ("moving", "fixed", "mask"):
        paths[key] = tmp_path / f"{key}.nii"
        paths[key].write_bytes(sound("f4"))
    paths[role] = write(tmp_path, name)
    words = [f"{key}={path}" for key, path in paths.items()]
    with pytest.raises(SystemExit) as done:
        main(["run", "bundle=metamorph_brats", *words, "--out", str(tmp_path / "a" / "out"), "--device", "cpu"])
    told = capsys.readouterr().err
    assert done.value.code == 2, told
    assert told.startswith(f"error: {role}: ") and told.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_folder_and_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "none.nii.gz"):
        for read in (probe_image, read_image):
            with pytest.raises(MmtkError, match=r"is a folder|there is no file"):
                read(path)


def test_reading_stops_where_the_header_says_however_much_follows(tmp_path, monkeypatch):
    """Of a gzip member that goes on for 200 MB no more than a block is unpacked."""
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzipped(sound("f4")) + bomb(200))
    unpacked = []
    original = gzip._GzipReader.read  # the only door through which bytes leave a gzip file

    def counted(self, size=-1):
        data = original(self, size)
        unpacked.append(len(data))
        return data

    monkeypatch.setattr(gzip._GzipReader, "read", counted)
    read_image(path)
    assert 0 < sum(unpacked) < 1 << 20
