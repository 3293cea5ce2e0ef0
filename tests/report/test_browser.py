"""The page in a browser, from disk: it starts, obeys its controls, asks nobody for anything, and complains of nothing.

Chromium runs without a window and prints the document after its scripts. What a visitor would do, a script does that is
put into a copy of the page; it leaves what it saw in the document.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from mmtk.report import write_index, write_report
from mmtk.report.views import lesion_center

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine"),
]

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")

WATCH = """<script>
window.seen = { complaints: [], steps: [] };
addEventListener("error", (e) => seen.complaints.push("error: " + e.message));
addEventListener("unhandledrejection", (e) => seen.complaints.push("rejected: " + e.reason));
addEventListener("securitypolicyviolation", (e) => seen.complaints.push("asked for " + e.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...words) => seen.complaints.push(kind + ": " + words.join(" "));
</script>"""

VISIT = """<script>
(async () => {
  const $ = (id) => document.getElementById(id);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const note = (what) => seen.steps.push([what, $("shown")?.textContent ?? ""]);
  const press = (key) => $("viewer").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  for (let n = 0; n < 600 && $("viewer") && !document.querySelector("#viewer.ready"); n++) await wait(50);
  %s
  const told = document.createElement("script");
  told.type = "application/json"; told.id = "seen"; told.textContent = JSON.stringify(seen);
  document.body.append(told);
})();
</script></body>"""


def visit(page, script, tmp_path, *options):
    """Open a copy of a page, do what the script says, and return what was seen."""
    text = page.read_text(encoding="utf-8")
    copy = page.with_name(f"visited-{page.name}")
    copy.write_text(
        text.replace("<style>", WATCH + "<style>", 1).replace("</body>", VISIT % script), encoding="utf-8"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [*(options or SOFTWARE_GL), "--virtual-time-budget=60000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    (seen,) = re.findall(r'id="seen">(.*?)</script>', done.stdout, re.DOTALL)
    return json.loads(seen), done.stdout


THROUGH_ALL = """
  note("start");
  for (const name of [...$("upper").options].map((o) => o.value)) {
    $("upper").value = name; $("upper").dispatchEvent(new Event("change")); await wait(400); note("upper " + name);
  }
  $("upper").value = "warped"; $("upper").dispatchEvent(new Event("change")); await wait(400);
  $("share").value = 50; $("share").dispatchEvent(new Event("input")); note("half");
  press(" "); note("space"); press(" "); note("space again"); press("ArrowRight"); note("right");
  $("swap").click(); await wait(600); note("swap");
  $("flicker").click(); note("flicker"); await wait(600); note("flickered"); $("flicker").click();
  $("grid").click(); $("outlines").click(); note($("grid").ariaPressed + " " + $("outlines").ariaPressed);
  $("theme").click(); note(document.documentElement.dataset.theme);
  $("theme").click(); note(document.documentElement.dataset.theme);
"""


@pytest.mark.parametrize("kind", [{}, {"lesion": False}, {"fixed_lesion": True, "located": False}], ids=str)
def test_volumes_start_obey_and_stay_at_home(kind, make, record, tmp_path):
    write_report(tmp_path / "report.html", make(**kind), record)
    seen, text = visit(tmp_path / "report.html", THROUGH_ALL, tmp_path)
    assert seen["complaints"] == []
    steps = dict(seen["steps"])
    warped = "Warped" if kind.get("lesion", True) else "Warped, shape only"
    assert steps["start"] == warped
    offered = ["fixed", "moving", "warped", "jacobian"]
    offered += ["deformed", "appearance", "mask"] if kind.get("lesion", True) else []
    assert {f"upper {name}" for name in offered} <= set(steps)
    assert steps["half"] == f"50 % Fixed + 50 % {warped}"
    assert (steps["space"], steps["space again"], steps["right"]) == ("Fixed", warped, warped)
    assert steps["swap"] == warped and steps["flickered"] != steps["flicker"]
    assert {"true false", "dark", "light"} <= set(steps)
    assert "pictures" not in re.search(r'<section id="viewer" class="([^"]*)"', text)[1]
    assert re.search(r'<div id="stage".*?</div>', text, re.DOTALL)[0].count("<canvas") == 3


def test_values_under_the_crosshair_are_those_of_the_images(make, record, tmp_path):
    result = make()
    write_report(tmp_path / "report.html", result, record)
    seen, text = visit(tmp_path / "report.html", "", tmp_path)
    assert seen["complaints"] == []
    shown = dict(re.findall(r"<span>([^<]+?) <b>([^<]+)</b></span>", text))
    center = lesion_center(result)
    for title, image in (("fixed", result.prepared.fixed.data), ("warped", result.images.warped)):
        assert float(html.unescape(shown[title]).replace("−", "-")) == pytest.approx(float(image[center]), abs=0.5)
    world = result.prepared.fixed.affine @ [*center, 1]
    assert [float(x) for x in shown["RAS, mm"].split()] == pytest.approx(world[:3], abs=0.51)


@pytest.mark.parametrize("case", ["2-D", "no WebGL"])
def test_pictures_take_the_place_of_volumes(case, make, record, tmp_path):
    write_report(tmp_path / "report.html", make(shape=(24, 30)) if case == "2-D" else make(), record)
    blind = ("--disable-3d-apis",) if case == "no WebGL" else SOFTWARE_GL
    seen, text = visit(tmp_path / "report.html", THROUGH_ALL, tmp_path, *blind)
    assert seen["complaints"] == []
    steps = dict(seen["steps"])
    assert steps["half"] == "50 % Fixed + 50 % Warped"
    assert "upper before" in steps and "upper grid" in steps
    assert "pictures" in re.search(r'<section id="viewer" class="([^"]*)"', text)[1]
    why = re.search(r'id="why">([^<]*)<', text)[1]
    assert why == ("Still pictures: this browser has no WebGL 2." if case == "no WebGL" else "")


def test_the_index_sorts_by_any_column(left, tmp_path):
    for name, likeness in (("a", 0.9), ("b", 0.7), ("c", 0.8)):
        metrics = {"similarity": {"correlation_outside": likeness}}
        left(tmp_path / name, shape=(16, 20), metrics=metrics)
    write_index(tmp_path / "index.html", [tmp_path / name / "run" for name in "abc"])
    script = """
      const order = () => seen.steps.push([...document.querySelectorAll("tbody th")].map((th) => th.dataset.value));
      const heads = [...document.querySelectorAll("thead button")];
      order(); heads[2].click(); order(); heads[2].click(); order(); heads[0].click(); order();
    """
    seen, _ = visit(tmp_path / "index.html", script, tmp_path)
    assert seen["complaints"] == []
    first, up, down, names = ["".join(name[0] for name in order) for order in seen["steps"]]
    assert (first, up, down, names) == ("bca", "bca", "acb", "abc")
