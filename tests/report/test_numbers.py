"""Numbers in words: metrics, headline, doubts, curves."""

import math

import numpy as np
import pytest
import torch

from mmtk.report.curves import make_curves
from mmtk.report.doubts import doubts
from mmtk.report.panels import make_panels
from mmtk.report.tables import number, sections, tiles
from mmtk.report.views import look


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (1234567, "1\u202f234\u202f567"),
        (0.123456, "0.1235"),
        (-2.5, "−2.5"),
        (65900.4, "65\u202f900"),
        (math.nan, "–"),
        (None, "–"),
        (-math.inf, "−∞"),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_numbers_are_written_for_readers(value, words):
    assert number(value) == words


def test_a_metric_stands_beside_what_the_affine_alone_gave():
    (section,) = sections({"similarity": {"correlation_outside_before": 0.5, "correlation_outside": 0.75}})
    (row,) = section.rows
    assert (row.label, row.before, row.value) == ("correlation", "0.5", "0.75")
    assert section.compared and row.meaning


def test_unknown_metrics_are_shown_plainly_and_none_is_lost():
    found = sections({"new_group": {"odd_one": 1, "deep": {"3": 0.5}}, "alone": 2.0, "similarity": {}})
    assert [(s.title, [(r.label, r.value) for r in s.rows]) for s in found] == [
        ("new group", [("odd one", "1"), ("deep · 3", "0.5")]),
        ("Further", [("alone", "2")]),
    ]


def test_the_headline_leaves_out_what_is_not_known():
    assert tiles({}, {}) == []
    (tile,) = tiles({"deformation": {"folds": 2}}, {})
    assert tile.value == "2" and tile.bad


def said(result):
    return " ".join(f"[{doubt.rank}] {doubt.text}" for doubt in doubts(result))


def test_a_good_result_raises_no_doubt(make):
    assert doubts(make()) == []


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"deformation": {"folds": 3, "jacobian_min": -1.0}}, "[grave] The deformation folds in 3 voxels"),
        ({"deformation": {"folds": 0, "jacobian_min": 0.05}}, "[doubt] The deformation comes close to folding"),
        ({"deformation": {"jacobian_max": 20.0}}, "Tissue is shrunk 20 times"),
        ({"disentanglement": {"share_explained_by_shape": 0.3}}, "Appearance explains more of the change"),
        ({"disentanglement": {"appearance_outside_mask": 0.1}}, "[grave] The appearance changes outside the mask"),
        ({"lesion": {"volume_kept": 0.2}}, "The lesion has 20 % of its volume"),
        ({"similarity": {"squared_error_outside_before": 1.0, "squared_error_outside": 2.0}}, "1 became 2"),
    ],
)
def test_numbers_that_smell_are_named(metrics, sentence, make):
    assert sentence in said(make(metrics=metrics))


def test_nan_raises_no_doubt(make):
    nan = {"deformation": {"jacobian_min": math.nan}, "disentanglement": {"share_explained_by_shape": math.nan}}
    assert doubts(make(metrics=nan)) == []


def test_a_mask_off_the_brain_is_a_grave_doubt(make):
    result = make()
    result.prepared.mask.data[:] = 0
    result.prepared.mask.data[:2, :2, :2] = 1
    assert "[grave] Only 0 % of the lesion mask lies on tissue" in said(result)


def test_a_lesion_that_vanished_is_a_grave_doubt(make):
    result = make()
    result.images.mask[:] = 0
    assert "[grave] Nothing of the lesion is left" in said(result)


def test_motion_at_the_border_is_a_doubt(make):
    result = make(displacement=torch.full((1, 3, 20, 24, 16), 5.0))
    assert "12.2 mm at the edge" in said(result)


def test_a_placement_that_was_refused_is_a_doubt(make):
    result = make()
    result.prepared.alignment.kind = "center"
    assert "init=affine was asked for, but did not improve on center" in said(result)
    assert "changes lengths by a factor of 2" in said(make(matrix=np.diag([2.0, 2.0, 2.0, 1.0])))


def test_notes_come_last_and_once(make):
    found = doubts(make(notes=("told", "told"), metrics={"deformation": {"folds": 1}}))
    assert [doubt.rank for doubt in found] == ["grave", "note"]


def test_folds_are_marked_in_the_map_and_in_the_grid(make):
    u = torch.zeros(1, 3, 20, 24, 16)
    u[0, 0, 12] = -3
    panels = {panel.name: panel for panel in make_panels(look(make(displacement=u)))}
    for name in ("jacobian", "grid"):
        assert any(picture.marks.any() for picture in panels[name].pictures)


def test_signed_maps_are_black_at_zero_and_symmetric(make):
    (panel,) = [p for p in make_panels(look(make())) if p.name == "before"]
    for picture in panel.pictures:
        zero = picture.view.before == 0
        assert zero.any() and not picture.colors[zero].any()
    assert panel.bar.least.lstrip("−") == panel.bar.most.lstrip("+")


def test_both_differences_share_a_scale(make):
    panels = {panel.name: panel for panel in make_panels(look(make()))}
    assert panels["before"].bar == panels["after"].bar


def test_curves_hold_their_ends_and_leave_out_what_is_not_finite():
    long = {"energies": tuple(float(e) for e in range(5000, 0, -1)), "size_mm": 4.0}
    none = {"energies": (math.nan, math.inf), "outcome": "NONFINITE"}
    curve, empty = make_curves([long, none])
    assert (curve.start, curve.end, curve.title) == ("5\u202f000", "1", "level 1 of 2 · 4 mm")
    assert len(curve.points.split()) < 400
    assert empty.points == "" and "nonfinite" in empty.note
