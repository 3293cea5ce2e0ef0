"""Tensors and what belongs to them in one safetensors file: names, and a header that is plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmtk.errors import ConfigError

__all__ = ["fill", "read_tensors", "write_tensors"]


def write_tensors(path: Path, key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file, and its folder if need be.

    Args:
        path: The file.
        key: What the header is called within the file's metadata.
        header: Plain data.
        tensors: By name, of any device.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(plain, metadata={key: json.dumps(header)}))


def read_tensors(path: Path, key: str, form: int, whose: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file, without calling anything that it names.

    Args:
        path: The file.
        key: What the header is called within the file's metadata.
        form: The form of header that is understood; it is no longer in what is returned.
        whose: What the file should be of, for the sentence: ``"a segmenter"``.

    Raises:
        ConfigError: It cannot be read, has no such header, or one of another form.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ConfigError(f"weights={path}: cannot be read as safetensors ({error}); give another file") from error
    if not isinstance(header, dict):
        raise ConfigError(f"weights={path}: are not those of {whose}; give a file that `mmtk train` wrote for one")
    found = header.pop("form", None)
    if found != form:
        raise ConfigError(
            f"weights={path}: are of form {found}, this mmtk reads {form}; update mmtk, or train anew"
        )
    return header, tensors


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str, what: str = "the network") -> None:
    """Give a network its tensors.

    Args:
        network: Changed.
        state: By the names that it gives them.
        source: Where they come from, at the beginning of the sentence: ``"weights=FILE"``.
        what: What the network is called in the sentence.

    Raises:
        ConfigError: Names or shapes do not fit.
    """
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    got = {name: tuple(t.shape) for name, t in state.items()}
    wrong = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"{source}: {len(wrong)} tensors do not fit {what}, {name} first: {got.get(name, 'missing')} against "
            f"{wanted.get(name, 'none')}; the file is damaged, or of another version"
        )
    network.load_state_dict(dict(state))
