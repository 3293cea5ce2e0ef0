"""Files that are there whole or not at all.

Whatever mmtk writes appears under a temporary name in its own folder and is renamed when it is complete, so
that a run that is killed leaves no file that looks finished, and a reader never sees half of one.

Compression is of our own because of one measurement: on a displacement field of 107 MB, gzip's fastest level
takes 7 s to save 7 % (the low bits of a smooth float are noise), while on an image with a background of zeros it
takes 0.2 s to save 85 %. So every block is tried on a sample, and stored as it is where nothing is to be won.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["gzipped", "replacing", "sha256", "write_bytes", "write_json", "write_text"]

BLOCK = 1 << 20
SAMPLE = 1 << 14
WORTHWHILE = 0.8


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path in the folder of ``path``; on leaving, rename what was written there to ``path``.

    The temporary name keeps the suffixes, since many writers choose the format by them. If the block raises,
    the temporary file is removed and ``path`` stays as it was.

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are readable by their owner alone, and would stay so after the renaming.
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> Path:
    """Write ``data``, gzipped if the name ends in ``.gz``, and return the path."""
    target = Path(path)
    with replacing(target) as temporary, open(temporary, "xb") as file:
        if target.suffix.lower() == ".gz":
            for part in gzipped(data):
                file.write(part)
        else:
            file.write(data)
    return target


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` as UTF-8 and return the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write plain data as indented JSON that any parser reads, and return the path.

    Paths become strings, arrays and their scalars lists and numbers, dataclasses objects. NaN and infinity, which
    JSON does not know, become null.
    """
    return write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def gzipped(data: bytes | memoryview) -> Iterator[bytes]:
    """Yield ``data`` as one gzip member, compressed in blocks on all cores, blocks of noise stored as they are.

    One member, not one for each block: browsers' decompressors, which web viewers use, stop after the first.
    The header carries no time, so equal data give equal files.
    """
    view = memoryview(data).cast("B")
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
    blocks = [view[start : start + BLOCK] for start in range(0, len(view), BLOCK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(_deflated, blocks)
    yield zlib.compressobj(0, zlib.DEFLATED, -15).flush()
    yield struct.pack("<II", zlib.crc32(view), len(view) & 0xFFFFFFFF)


def _deflated(block: memoryview) -> bytes:
    # Run-length matching alone: on floats it is twice as fast as looking for longer ones, and no larger.
    level = 1 if _shrinks(block) else 0
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, zlib.Z_RLE if level else zlib.Z_DEFAULT_STRATEGY)
    return packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)


def _shrinks(block: memoryview) -> bool:
    start = max(0, (len(block) - SAMPLE) // 2)
    sample = block[start : start + SAMPLE]
    return len(zlib.compress(sample, 1)) < WORTHWHILE * len(sample)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(BLOCK):
            digest.update(chunk)
    return digest.hexdigest()
