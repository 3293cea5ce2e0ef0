"""The index of a cohort: order, reasons, links, and nothing from outside unescaped."""

import html
import json
import re
from urllib.parse import unquote

import pytest

from mmtk.errors import InputError
from mmtk.report import write_index
from mmtk.report.folders import gather
from mmtk.report.index import read_entries

GOOD = {"similarity": {"correlation_outside": 0.9}}
WORSE = {"similarity": {"correlation_outside": 0.8}}
TIGHT = {"similarity": {"correlation_outside": 0.95}, "deformation": {"folds": 0, "jacobian_min": 0.01}}
FOLDED = {"similarity": {"correlation_outside": 0.99}, "deformation": {"folds": 7, "jacobian_min": -1.0}}


@pytest.fixture
def cohort(left, tmp_path):
    """Four runs of different quality and one that did not end, in one folder."""
    place = tmp_path / "cohort"
    for name, metrics in {"a": GOOD, "b": FOLDED, "c": WORSE, "d": TIGHT}.items():
        left(tmp_path / name, shape=(16, 20), metrics=metrics)
        place.mkdir(exist_ok=True)
        (tmp_path / name / "run").rename(place / name)
    (place / "e").mkdir()
    (place / "e" / "run.json").write_text("{")
    return place


def runs(place):
    return sorted(path for path in place.iterdir() if path.is_dir())


def test_the_worst_comes_first_with_its_reasons(cohort):
    assert write_index(cohort / "index.html", runs(cohort)) == ["e", "b", "d", "c", "a"]
    text = html.unescape((cohort / "index.html").read_text(encoding="utf-8"))
    reasons = re.findall(r'<li class="(\w+)">(.*?)</li>', text.replace("\n", " "))
    assert [rank for rank, _ in reasons] == ["grave", "grave", "doubt", "none", "none"]
    assert "cannot be read as JSON" in reasons[0][1]
    assert "folds in 7 voxels" in reasons[1][1]
    assert "comes close to folding" in reasons[2][1]


def test_links_lead_to_the_pages(cohort):
    write_index(cohort / "index.html", runs(cohort))
    links = re.findall(r'href="([^"]+)"', (cohort / "index.html").read_text(encoding="utf-8"))
    assert links == ["b/report.html", "d/report.html", "c/report.html", "a/report.html"]
    assert all((cohort / unquote(link)).is_file() for link in links)


def test_a_run_without_a_page_gets_one(cohort):
    (cohort / "a" / "report.html").unlink()
    (cohort / "b" / "report.html").write_text("<p>a page of another kind")
    before = [entry.doubts for entry in read_entries(runs(cohort), cohort)]
    assert (cohort / "a" / "report.html").is_file()
    assert [entry.doubts for entry in read_entries(runs(cohort), cohort)] == before


def test_names_from_outside_are_escaped(left, tmp_path):
    name = "<b>x</b> #1?&'"
    _, record = left(tmp_path, shape=(16, 20))
    folder = tmp_path / "<b>x< b> #1?&'"
    (tmp_path / "run").rename(folder)
    record["inputs"]["moving"]["path"] = name
    record["command"] = name
    (folder / "run.json").write_text(json.dumps(record))
    write_index(tmp_path / "index.html", [folder])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>x" not in text
    (link,) = re.findall(r'href="([^"]+)"', text)
    assert (tmp_path / unquote(link)).is_file() and "#" not in link and "?" not in link


def test_a_summary_that_says_more_than_text_stays_text(left, tmp_path):
    left(tmp_path, shape=(16, 20), notes=("</script><script>alert(1)</script>",), metrics=FOLDED)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    (entry,) = read_entries([tmp_path / "run"], tmp_path)
    assert entry.doubts[-1].text == "</script><script>alert(1)</script>"


def test_every_number_can_be_sorted_by(cohort):
    write_index(cohort / "index.html", runs(cohort))
    text = (cohort / "index.html").read_text(encoding="utf-8")
    for value in re.findall(r'<td class="n[^"]*" data-value="([^"]*)"', text):
        assert value == "" or float(value) == float(value)


def test_a_folder_of_runs_stands_for_them(cohort):
    found, index = gather([cohort])
    assert found == runs(cohort) and index == cohort / "index.html"
    found, index = gather([cohort / "a", cohort / "b", cohort / "a"])
    assert found == [cohort / "a", cohort / "b"] and index == cohort / "index.html"
    assert gather([cohort / "a"]) == ([cohort / "a"], None)


def test_a_folder_of_anything_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither is nor holds"):
        gather([tmp_path])
    with pytest.raises(InputError, match="neither is nor holds"):
        gather([tmp_path / "nowhere", tmp_path])
