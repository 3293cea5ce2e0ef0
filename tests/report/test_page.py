"""The page: whole, self-contained, escaped, and there for every kind of result."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from mmtk.report import write_overview, write_report

VOID = {"meta", "input", "img", "br", "link", "circle", "path", "polyline"}
EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


class Page(HTMLParser):
    """Collects what a browser would follow, and insists that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(tmp_path, result, record):
    path = tmp_path / "report.html"
    write_report(path, result, record)
    return path.read_text(encoding="utf-8")


#: A 2-D image, for what does not depend on the pictures.
SMALL = (16, 20)

KINDS = {
    "3-D with a lesion": {},
    "3-D without": {"lesion": False},
    "lesions on both sides": {"fixed_lesion": True},
    "2-D with a lesion": {"shape": (24, 30)},
    "2-D without": {"shape": (24, 30), "lesion": False},
    "constant": {"constant": True},
    "constant, 2-D, without": {"shape": (24, 30), "constant": True, "lesion": False},
    "few thick slices": {"shape": (40, 40, 3), "affine": np.diag([1.0, 1.0, 8.0, 1.0])},
    "nothing moves": {"displacement": torch.zeros(1, 3, 20, 24, 16)},
    "no metrics": {"metrics": {}},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_page_is_whole_and_needs_nothing_else(kind, make, record, tmp_path):
    text = report(tmp_path, make(**kind), record)
    page = Page(text)
    outside = [r for r in page.references if not r.startswith("data:")]
    assert outside == ["warped.nii.gz", "metrics.json", "run.json", "report.html", "something%20new.txt"]
    assert not re.search(r"https?:|url\((?!data:)|@import|<script[^>]*src|<link", text)
    assert "default-src 'none'" in text
    pictures = EMBEDDED.findall(text)
    planes = 1 if len(kind.get("shape", (1, 1, 1))) == 2 else 3
    assert len(pictures) == planes * (1 + (10 if kind.get("lesion", True) else 8))
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        image.load()
        assert max(image.size) <= 400


@pytest.mark.parametrize("command", [None, "mmtk run '<b>name</b>'"])
def test_text_from_outside_is_escaped(command, make, record, tmp_path):
    nasty = "<b>name</b>"
    record["inputs"]["moving"]["path"] = nasty
    record["command"] = command
    record["files"] = [nasty]
    record["settings"]["method"]["kind"] = nasty
    record["versions"][nasty] = nasty
    record["affine"]["note"] = nasty
    record["outcome"]["says"] = nasty
    text = report(tmp_path, make(SMALL, metrics={nasty: {nasty: nasty}}, notes=(nasty,)), record)
    assert nasty not in text
    assert text.count("&lt;b&gt;name") >= 9
    Page(text)


def test_a_record_with_nothing_in_it_still_gives_a_page(make, tmp_path):
    Page(report(tmp_path, make(SMALL), {}))


def test_the_page_says_how_to_run_it_again(make, record, tmp_path):
    assert record["command"] in Page(report(tmp_path, make(SMALL), record)).text
    record["command"] = None
    text = Page(report(tmp_path, make(SMALL), record)).text
    assert (
        "mmtk.register( moving='moving.nii.gz', fixed=fixed, method={'kind': 'metamorphosis', 'mu': 0.1}," in text
    )


def test_the_side_of_the_patient_is_said_only_where_it_is_known(make, record, tmp_path):
    assert "Radiological convention" in report(tmp_path, make(), record)
    unknown = report(tmp_path, make(located=False), record)
    assert "Radiological convention" not in unknown and "no sides are marked" in unknown


def test_pyplot_is_not_loaded(make, record, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_report(tmp_path / "report.html", make(SMALL), record)
    write_overview(tmp_path / "overview.png", make(SMALL))


def test_importing_the_report_loads_nothing_heavy():
    heavy = "{'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)"
    code = f"import sys, mmtk.report; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_is_there_whole_or_not_at_all(make, record, tmp_path):
    record["levels"] = 3
    with pytest.raises(TypeError):
        write_report(tmp_path / "report.html", make(SMALL), record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_overview_is_one_wide_picture(kind, make, tmp_path):
    write_overview(tmp_path / "overview.png", make(**kind))
    image = Image.open(tmp_path / "overview.png")
    image.load()
    assert image.width > 2 * image.height


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0, 40], ids=["clean", "noise everywhere"])
def test_a_brain_of_one_millimeter_stays_under_fifteen_megabytes(noise, make, record, tmp_path):
    result = make((240, 240, 155), affine=np.eye(4))
    random = torch.Generator().manual_seed(0)
    native = [torch.from_numpy(volume.data) for volume in (result.prepared.moving, result.prepared.fixed)]
    for image in (*native, result.images.warped, result.images.deformed, result.images.jacobian):
        image += noise * torch.randn(image.shape, generator=random)
    write_report(tmp_path / "report.html", result, record)
    assert (tmp_path / "report.html").stat().st_size < 15e6
