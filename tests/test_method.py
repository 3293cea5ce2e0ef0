"""What a method is given."""

import torch

from mmtk.fields import Grid
from mmtk.method import Pair


def test_what_may_be_compared_is_told_for_either_image():
    image = torch.rand(1, 2, 4, 5)
    grid = Grid((4, 5), (1.0, 1.0))
    plain = Pair(image, image, grid)
    assert bool((plain.moving_weight == 1).all()) and bool((plain.fixed_weight == 1).all())
    assert plain.moving_weight.shape == plain.fixed_weight.shape == (1, 1, 4, 5)
    lesion, other, inside = (torch.zeros(1, 1, 4, 5) for _ in range(3))
    lesion[..., 0], other[..., 1], inside[..., :3] = 0.25, 1, 1
    masked = Pair(image, image, grid, mask=lesion, fixed_mask=other, inside=inside)
    assert masked.moving_weight[0, 0, 0].tolist() == [0.75, 1, 1, 0, 0]
    assert masked.fixed_weight[0, 0, 0].tolist() == [1, 0, 1, 1, 1]
