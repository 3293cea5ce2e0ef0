"""What a bundle could do beside describing a registration: found by reading, with nothing of it run.

MONAI's parser evaluates: a string that begins with ``$`` is Python, ``_target_`` calls anything that can be imported,
``%`` pulls in other files, ``scripts/`` is imported and ``logging.conf`` is set up. So a bundle from anybody is read
here first, and every such place is named. What is let through is a list of what is known to be harmless; whatever
is not on it is a finding, also what nobody has thought of.

    targets      the few classes that a bundle of mmtk needs, and the parts of installed plugins
    expressions  the idioms below, to the letter
    files        configurations, texts, pictures, and weights that hold tensors alone
"""

from __future__ import annotations

import os
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.bundle.reading import FORMATS, read_config
from mmtk.errors import ConfigError, InputError
from mmtk.plugins import Catalogue

__all__ = ["IDIOMS", "TARGETS", "Finding", "files_of", "scan"]

#: What ``_target_`` may say, and the class that it must come to.
TARGETS = {
    "mmtk.bundle.workflow.RegistrationNetwork": "mmtk.bundle.workflow.RegistrationNetwork",
    "mmtk.bundle.workflow.PreparePair": "mmtk.bundle.workflow.PreparePair",
    "mmtk.bundle.workflow.SaveRegistration": "mmtk.bundle.workflow.SaveRegistration",
    "mmtk.bundle.workflow.one_pair": "mmtk.bundle.workflow.one_pair",
    "mmtk.bundle.segmentation.SegmentationNetwork": "mmtk.bundle.segmentation.SegmentationNetwork",
    "mmtk.bundle.segmentation.ReadScans": "mmtk.bundle.segmentation.ReadScans",
    "mmtk.bundle.segmentation.SaveSegmentation": "mmtk.bundle.segmentation.SaveSegmentation",
    "Dataset": "monai.data.dataset.Dataset",
    "monai.data.Dataset": "monai.data.dataset.Dataset",
    "DataLoader": "monai.data.dataloader.DataLoader",
    "monai.data.DataLoader": "monai.data.dataloader.DataLoader",
    "SimpleInferer": "monai.inferers.inferer.SimpleInferer",
    "monai.inferers.SimpleInferer": "monai.inferers.inferer.SimpleInferer",
    "SupervisedEvaluator": "monai.engines.evaluator.SupervisedEvaluator",
    "monai.engines.SupervisedEvaluator": "monai.engines.evaluator.SupervisedEvaluator",
}

#: The expressions that need no trust, without their ``$``. Each must match whole.
IDIOMS = tuple(
    re.compile(idiom)
    for idiom in (
        r"import (json|monai|os|pathlib|torch)",
        r"torch\.device\('(cpu|cuda|cuda:\d)'\)",
        r"torch\.device\('cuda:0' if torch\.cuda\.is_available\(\) else 'cpu'\)",
        r"torch\.device\('cuda', int\(os\.environ\['LOCAL_RANK'\]\)\) if torch\.cuda\.is_available\(\) "
        r"else torch\.device\('cpu'\)",
        r"@network_def\.to\(@device\)",
        r"@bundle_root \+ '(/[A-Za-z0-9_][\w.-]*)+'",
        r"monai\.utils\.set_determinism\(seed=@seed\)",
        r"@evaluator\.run\(\)",
        r"json\.loads\(pathlib\.Path\(@pairs_file\)\.read_text\(encoding='utf-8'\)\)",
        r"@pairs\[int\(os\.environ\['RANK'\]\)::int\(os\.environ\['WORLD_SIZE'\]\)\]",
    )
)

#: Ids that an idiom calls into, and the only targets that they may have.
CALLED = {
    "network_def": (
        "mmtk.bundle.workflow.RegistrationNetwork",
        "mmtk.bundle.segmentation.SegmentationNetwork",
    ),
    "evaluator": ("SupervisedEvaluator", "monai.engines.SupervisedEvaluator"),
}

#: What a bundle may consist of: files in its root, and suffixes in its folders.
ROOT = ("LICENSE", "LICENSE.txt", "LICENSE.md", "README.md", "CHANGELOG.md")
FOLDERS = {
    "configs": tuple(FORMATS),
    "docs": (".md", ".txt", ".png", ".jpg", ".jpeg", ".gif"),
    "models": (".safetensors", ".pt", ".pth"),
}

#: The one image that a bundle may hold: the template that its weights know.
TEMPLATE = "models/template.nii.gz"

#: More files than any bundle has, deeper folders, and a longer pickle than tensors' names make.
FILES, LEVELS, PICKLE = 2000, 16, 1 << 23

#: What the pickle of a file of tensors names.
TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (Size|device)"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage|torch\.storage UntypedStorage"
)

_NATURE = {
    "scripts": "Python code, which MONAI imports",
    ".py": "Python code",
    "logging.conf": "a logging setup, which Python evaluates",
    ".ts": "TorchScript, which runs code when it is loaded",
    ".pkl": "a pickle, which runs code when it is loaded",
    ".pickle": "a pickle, which runs code when it is loaded",
    ".joblib": "a pickle, which runs code when it is loaded",
    ".npy": "an array that may hold a pickle",
    ".npz": "arrays that may hold pickles",
}


@dataclass(frozen=True)
class Finding:
    """Something that asks for trust.

    Attributes:
        place: The file, and within a configuration the id: ``configs/inference.json: network_def::method``.
        what: What is there, and why it needs trust.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def scan(folder: Path, catalogue: Catalogue | None = None) -> list[Finding]:
    """Return everything in a bundle that asks for trust; an empty list for one that is only data.

    Args:
        catalogue: Parts of its plugins may be named in ``_target_``.

    Raises:
        InputError: The folder cannot be read, or holds more than any bundle.
    """
    parts = () if catalogue is None else (o.config.target.replace(":", ".") for o in catalogue.offers())
    targets = frozenset([*TARGETS, *parts])
    findings: list[Finding] = []
    for path, name in files_of(folder):
        findings += [Finding(name, what) for what in _file(path, name)]
        if not findings or findings[-1].place != name:
            if path.suffix in FORMATS:
                findings += _config(path, name, targets)
            elif path.suffix in FOLDERS["models"]:
                findings += [Finding(name, what) for what in _weights(path)]
    return findings


def files_of(folder: Path) -> list[tuple[Path, str]]:
    """Return all that a bundle holds but its folders, with names from its root, sorted; links are not followed.

    Raises:
        InputError: The folder cannot be read, or holds more than any bundle.
    """
    found: list[tuple[Path, str]] = []
    waiting = [(Path(folder), "", 0)]
    while waiting:
        place, name, level = waiting.pop()
        if level > LEVELS:
            raise InputError(f"{place}: more than {LEVELS} folders deep; a bundle is not")
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({error.strerror})") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), f"{name}{entry.name}/", level + 1))
            else:
                found.append((Path(entry.path), f"{name}{entry.name}"))
        if len(found) + len(waiting) > FILES:
            raise InputError(f"{folder}: more than {FILES} files; a bundle has fewer")
    return sorted(found, key=lambda item: item[1])


def _file(path: Path, name: str) -> Iterator[str]:
    """What speaks against a file before it is opened."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        yield "a link, which may lead out of the bundle; put a copy in its place"
    elif not stat.S_ISREG(mode):
        yield "a pipe, socket or device; a bundle holds plain files"
    elif "/" in name:
        top = name.split("/")[0]
        if path.suffix not in FOLDERS.get(top, ()) and name != TEMPLATE:
            yield _nature(top, path)
    elif name not in ROOT:
        yield _nature("", path)


def _nature(top: str, path: Path) -> str:
    known = _NATURE.get(top) or _NATURE.get(path.name) or _NATURE.get(path.suffix.lower())
    return known or "not one of the files that a bundle of data consists of"


def _config(path: Path, name: str, targets: frozenset[str]) -> Iterator[Finding]:
    try:
        content = read_config(path)
    except ConfigError as error:
        yield Finding(name, str(error).removeprefix(f"{path}: "))
        return
    text = path.name == "metadata.json"
    for at, key, value in _walk(content):
        place = f"{name}: {'::'.join(at) or '(root)'}"
        for what in _entry(at, key, value, targets):
            yield Finding(place, what)
        if not text and isinstance(value, str) and (outside := _outside(value)):
            yield Finding(place, outside)


def _walk(content: Any) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield every entry with its id and its key; keys that are ids themselves, ``a::b`` or ``a#b``, are taken apart."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        at, node = waiting.pop()
        if at:
            yield at, at[-1], node
        if isinstance(node, dict):
            children = [(re.split("::|#", str(key).lstrip("+~")), value) for key, value in node.items()]
            waiting += [((*at, *words), value) for words, value in reversed(children)]
        elif isinstance(node, list):
            waiting += [((*at, str(index)), value) for index, value in reversed(list(enumerate(node)))]


def _entry(at: tuple[str, ...], key: str, value: Any, targets: frozenset[str]) -> Iterator[str]:
    if any(word[:1] in ("$", "%", "@") for word in at):
        yield "a name that MONAI may evaluate"
    if key == "_target_":
        allowed: Any = CALLED.get(at[0], targets) if len(at) == 2 else targets
        if not isinstance(value, str) or value not in allowed:
            yield f"_target_ {_shown(value)}, which is not on the list of what a bundle may call untrusted"
    elif key == "_mode_" and value not in ("default", "callable"):
        yield f"_mode_ {_shown(value)}, which starts a debugger"
    if isinstance(value, str) and key != "_target_":
        start = value.lstrip()
        if start.startswith("%"):
            yield f"the macro {_shown(value)}, which pulls in other content"
        elif start.startswith("$") and not any(idiom.fullmatch(value[1:]) for idiom in IDIOMS):
            yield f"the expression {_shown(value)}, which is run as Python"


def _outside(value: str) -> str | None:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", value):
        return f"the address {_shown(value)}; a bundle of data loads nothing"
    if re.match(r"[/\\~]|[A-Za-z]:[/\\]", value) or ".." in re.split(r"[/\\]", value):
        return f"the path {_shown(value)}, which leads out of the bundle"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _weights(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".safetensors":
            _safetensors(path)
        else:
            yield from _torch_file(path)
    except Exception as error:  # a file made to break its reader
        yield f"not a file of tensors ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def _safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        file.keys()


def _torch_file(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            yield "a bare pickle, which runs code when it is loaded; save the weights as safetensors"
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        inner = {member.filename.partition("/")[2] for member in members}
        if any(name.startswith("code/") or name == "constants.pkl" for name in inner):
            yield "TorchScript, which runs code when it is loaded; save the weights as safetensors"
            return
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            yield "a compressed archive; torch stores tensors as they are"
            return
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].filename.count("/") != 1 or pickles[0].file_size > PICKLE:
            yield "not one short data.pkl, as torch.save writes it"
            return
        yield from _globals(archive.read(pickles[0]))


def _globals(pickle: bytes) -> Iterator[str]:
    """Every name that a pickle would import, but those of tensors."""
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in ("INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ", "NEWOBJ_EX"):
            yield f"a pickle that makes objects ({opcode.name}); save the weights as safetensors"
            return
        if opcode.name == "GLOBAL" and not TENSORS.fullmatch(str(argument)):
            yield f"a pickle that imports {str(argument).replace(' ', '.')}; save the weights as safetensors"
            return
