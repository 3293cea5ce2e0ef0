import gzip
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtk.io import replacing, sha256, write_bytes, write_json, write_text
from mmtk.io.files import gzipped


def test_a_file_that_fails_leaves_the_old_one_and_no_trace(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".nii.gz")
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        path = write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 4))
def test_gzip_gives_back_every_byte(data, times):
    data = data * 10**times if times < 4 else data
    assert gzip.decompress(b"".join(gzipped(data))) == data


def test_gzip_gives_back_several_blocks_of_noise_and_of_zeros():
    noise = np.random.default_rng(0).bytes(1_300_000)
    data = bytes(2_000_000) + noise + bytes(1_000_001)
    packed = b"".join(gzipped(data))
    assert gzip.decompress(packed) == data
    assert len(packed) < 1.1 * len(noise) + 50_000


def test_names_in_gz_are_compressed(tmp_path):
    assert gzip.decompress(write_bytes(tmp_path / "a.gz", b"abc").read_bytes()) == b"abc"
    assert write_bytes(tmp_path / "a.bin", b"abc").read_bytes() == b"abc"


def test_json_is_plain_whatever_goes_in(tmp_path):
    @dataclass
    class Part:
        size: tuple

    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": [np.nan, np.inf],
        "d": Path("x"),
        5: Part((1,)),
        "e": True,
    }
    path = write_json(tmp_path / "a.json", value)
    expected = {"a": 0.5, "b": [0, 1], "c": [None, None], "d": "x", "5": {"size": [1]}, "e": True}
    assert json.loads(path.read_text()) == expected


def test_digests_are_those_of_sha256sum(tmp_path):
    path = write_text(tmp_path / "a", "abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
