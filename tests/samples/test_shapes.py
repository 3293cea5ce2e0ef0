import numpy as np
import pytest
from scipy.ndimage import label

from mmtk.errors import ConfigError, GridMismatch
from mmtk.samples import c_shapes, shape_scores
from mmtk.samples.sample import jacobian_minimum

CUTS = ("source", "target")


def test_the_same_seed_gives_the_same_shape_whatever_the_count():
    (one,) = c_shapes(1, seed=3, size=64, steps=5)
    first, second = c_shapes(2, seed=3, size=64, steps=5)
    np.testing.assert_array_equal(first.moving, one.moving)
    assert not np.array_equal(second.moving, one.moving)


@pytest.mark.parametrize("cut", CUTS)
def test_the_cut_parts_the_letter_and_lies_under_the_masks(cut, letter):
    sample = letter(cut)
    lesioned, whole = (sample.moving, sample.fixed) if cut == "source" else (sample.fixed, sample.moving)
    assert label(lesioned > 0.5)[1] == 2 and label(whole > 0.5)[1] == 1
    assert sample.moving.min() == sample.fixed.min() == 0 and sample.moving.max() == sample.fixed.max() == 1
    assert sample.fixed_mask[sample.appearance != 0].all()
    assert np.sign(sample.appearance.sum()) == (1 if cut == "source" else -1)


@pytest.mark.parametrize("cut", CUTS)
def test_the_truth_is_without_error_by_every_score(cut, letter):
    sample = letter(cut)
    scores = shape_scores(sample, sample.displacement)
    assert scores["s"] < 0.01 and scores["normal"] == scores["near"] == scores["in_cut"] == 0
    nothing = shape_scores(sample, np.zeros_like(sample.displacement))
    assert scores["outside"] < 0.05 * nothing["outside"]
    assert nothing["s"] > 10 and nothing["near"] > 0.5 and nothing["normal"] > 0.3
    assert scores["folds"] == 0


@pytest.mark.parametrize("cut", CUTS)
def test_with_the_appearance_the_truth_explains_everything(cut, carried, letter):
    sample = letter(cut)
    seen = carried(sample.moving, sample.displacement, order=1)
    assert ((seen + sample.appearance - sample.fixed) ** 2).sum() < 0.1 * ((seen - sample.fixed) ** 2).sum()


@pytest.mark.parametrize("seed", range(4))
def test_no_shape_folds_either_way(seed, carried, letter):
    sample = letter(seed=seed)
    assert jacobian_minimum(sample.displacement) > 0 and jacobian_minimum(sample.inverse_displacement) > 0
    back = carried(sample.inverse_displacement[0], sample.displacement)
    inside = np.s_[3:-3, 3:-3]  # beyond, the periodic image is read where `carried` sees nothing
    np.testing.assert_allclose(back[inside], -sample.displacement[0][inside], atol=5e-3)
    assert sample.facts["redrawn"] >= 0


def test_folded_draws_are_counted_and_a_hopeless_setting_is_refused():
    assert next(c_shapes(1, size=64, steps=10)).facts["redrawn"] > 0
    with pytest.raises(ConfigError, match="Lower `amplitude` or raise `sigma`"):
        next(c_shapes(1, size=48, sigma=1.0, steps=2, amplitude=1e5))


def test_without_momentum_the_letter_stays(letter):
    sample = letter(amplitude=0.0)
    np.testing.assert_array_equal(sample.displacement, 0)
    np.testing.assert_array_equal(sample.mask, sample.fixed_mask)


def test_a_larger_mask_changes_neither_the_images_nor_the_scores(letter):
    tight, wide = letter(), letter(mask_area=2.0)
    np.testing.assert_array_equal(tight.moving, wide.moving)
    assert wide.fixed_mask.sum() == pytest.approx(2 * tight.fixed_mask.sum(), rel=0.05)
    guess = 0.5 * tight.displacement
    assert shape_scores(tight, guess) == shape_scores(wide, guess)


def test_only_errors_across_edges_count_as_normal(letter):
    sample = letter(amplitude=0.0)
    middle = (96 - 1) / 2
    down, right = np.indices((96, 96)) - middle
    r = np.maximum(np.hypot(down, right), 1)
    along, across = np.stack([right, -down]) / r, np.stack([down, right]) / r
    # The round ends are edges across the ring's direction; they are few.
    assert shape_scores(sample, 2 * along)["normal"] < 0.5
    assert shape_scores(sample, 2 * across)["normal"] > 1.6


def test_a_displacement_of_another_size_is_refused(letter):
    with pytest.raises(GridMismatch):
        shape_scores(letter(), np.zeros((2, 5, 5)))


def test_wrong_options_are_refused_before_the_first_shape():
    with pytest.raises(ConfigError, match="cut"):
        c_shapes(1, cut="both")
