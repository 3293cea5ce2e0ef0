"""Every loss against a value computed by hand, and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk_kd.losses import (
    Adversarial,
    AttentionTransfer,
    BottleneckDivergence,
    Contrastive,
    GroundTruth,
    InfoNCE,
    Objective,
    SoftTargets,
    Term,
    attention_map,
)


def rows(*channels: list[float]) -> Tensor:
    """One element of one row of voxels, ``(1, C, 1, n)``."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, None]


#: Two voxels: probabilities 1/2, 1/2 and 1/4, 3/4; the first is healthy, the second is not.
LOGITS = rows([0.0, 0.0], [0.0, math.log(3)])
TRUTH = rows([1.0, 0.0], [0.0, 1.0])
DICE = 2 * 0.75 / (1 + 0.5 + 0.75)
ENTROPY = -(math.log(0.5) + math.log(0.75)) / 2


def test_ground_truth_is_dice_and_cross_entropy() -> None:
    assert float(GroundTruth()(LOGITS, TRUTH)) == pytest.approx(1 - DICE + ENTROPY, abs=1e-5)


def test_the_background_counts_where_that_is_asked_for() -> None:
    healthy = 2 * 0.5 / (1 + 0.5 + 0.25)
    expected = 1 - (DICE + healthy) / 2 + ENTROPY
    assert float(GroundTruth(background=True)(LOGITS, TRUTH)) == pytest.approx(expected, abs=1e-5)


def test_the_focal_forms() -> None:
    focal = -((1 - 0.5) ** 2 * math.log(0.5) + (1 - 0.75) ** 2 * math.log(0.75)) / 2
    assert float(GroundTruth("dice_focal")(LOGITS, TRUTH)) == pytest.approx(1 - DICE + focal, abs=1e-5)
    assert float(GroundTruth("focal_dice", gamma=2)(LOGITS, TRUTH)) == pytest.approx((1 - DICE) ** 0.5, abs=1e-5)
    assert float(GroundTruth("focal_dice", gamma=1)(LOGITS, TRUTH)) == pytest.approx(1 - DICE, abs=1e-5)


def test_one_channel_is_judged_by_its_sigmoid() -> None:
    two = float(GroundTruth()(LOGITS, TRUTH))
    assert float(GroundTruth()(LOGITS[:, 1:], TRUTH[:, 1:])) == pytest.approx(two, abs=1e-5)
    student, teacher = LOGITS, rows([0.0, 0.0], [1.0, -2.0])
    both = float(SoftTargets(2.0)(student, teacher))
    assert float(SoftTargets(2.0)(student[:, 1:], teacher[:, 1:])) == pytest.approx(both)


def test_soft_targets_are_softened_on_both_sides() -> None:
    student, teacher = rows([0.0], [2 * math.log(3)]), rows([0.0], [0.0])
    expected = -0.5 * math.log(0.25) - 0.5 * math.log(0.75)  # at T = 2
    assert float(SoftTargets(2.0)(student, teacher)) == pytest.approx(expected)
    assert float(SoftTargets(1.0)(student, teacher)) == pytest.approx(-0.5 * (math.log(0.1) + math.log(0.9)))


def test_the_gradient_of_soft_targets_is_the_difference_of_the_probabilities() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 4, 3, 2, generator=draw, dtype=torch.float64)
    student.requires_grad_()
    (steep,) = torch.autograd.grad(SoftTargets(3.0)(student, teacher), student)
    apart = (student / 3).softmax(1) - (teacher / 3).softmax(1)
    torch.testing.assert_close(steep, apart / 3 / 6)  # over T, and 6 voxels


def test_attention_maps_and_their_distance() -> None:
    features = rows([3.0, 1.0], [-4.0, 2.0])
    torch.testing.assert_close(attention_map(features), rows([25.0, 5.0]))
    torch.testing.assert_close(attention_map(features, 1.0, "max"), rows([4.0, 2.0]))
    student, teacher = rows([3.0, 0.0]), rows([0.0, 2.0])
    assert float(AttentionTransfer()(student, teacher)) == pytest.approx(math.sqrt(2), abs=1e-5)
    assert float(AttentionTransfer()(5 * student, student)) == pytest.approx(0, abs=1e-5)
    slanted = AttentionTransfer(1.0)(rows([3.0, 4.0]), teacher)  # (0.6, 0.8) against (0, 1)
    assert float(slanted) == pytest.approx(math.hypot(0.6, 0.2), abs=1e-5)


def test_attention_compares_layers_of_different_widths() -> None:
    wide = torch.cat([LOGITS, LOGITS], 1)
    assert float(AttentionTransfer()(wide, LOGITS)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("normalize", ["softmax", "sum"])
def test_the_divergence_is_the_student_s_from_the_teacher_s(normalize: str) -> None:
    student = rows([0.0, math.log(3)]) if normalize == "softmax" else rows([1.0, -3.0])
    teacher = rows([0.0, 0.0]) if normalize == "softmax" else rows([1.0, 1.0])
    loss = BottleneckDivergence(normalize)
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    backward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(loss(student, teacher)) == pytest.approx(forward, abs=1e-5)
    assert float(loss(teacher, student)) == pytest.approx(backward, abs=1e-5)


def without_head(loss: Contrastive | InfoNCE) -> Contrastive | InfoNCE:
    loss.head = nn.Identity()
    return loss


def of_means(*vectors: list[float]) -> Tensor:
    """A batch of features ``(B, C, 1, 1)``."""
    return torch.tensor(vectors, dtype=torch.float64)[:, :, None, None]


def test_contrastive_distillation_by_hand() -> None:
    ours, theirs = of_means([0.0], [3.0]), of_means([1.0], [3.5])
    # i = 1: 1 + (3 - |3 - 1|)^2 = 2; i = 2: 1/4, and |0 - 3.5| is beyond the margin.
    loss = without_head(Contrastive(margin=3.0, pool=0))
    assert float(loss(ours, theirs)) == pytest.approx((2 + 0.25) / 2)
    assert float(loss(ours[:1], theirs[:1])) == pytest.approx(1.0)


def test_info_nce_by_hand() -> None:
    loss = without_head(InfoNCE(temperature=0.5, pool=0))
    ours, theirs = of_means([1.0, 0.0], [0.0, 2.0]), of_means([3.0, 0.0], [1.0, 1.0])
    # cosines of theirs with ours: (1, 0) and (1, 1) / sqrt(2)
    half = math.sqrt(0.5)
    expected = -((1 - 0) + (half - half)) / 0.5 / 2
    assert float(loss(ours, theirs)) == pytest.approx(expected)
    assert float(loss(ours[:1], theirs[:1])) == 0


def test_the_head_averages_over_cells_and_has_one_hidden_layer() -> None:
    loss = Contrastive(hidden=5, out=3, pool=2)
    features = torch.rand(2, 4, 6, 6, 4, dtype=torch.float64)
    assert loss.project(features).shape == (2, 3)
    assert loss.head is not None
    assert [tuple(p.shape) for p in loss.head.parameters()] == [(5, 4 * 3 * 3 * 2), (5,), (3, 5), (3,)]
    before = loss.head
    loss(features, features)
    assert loss.head is before


def test_a_critic_that_knows_nothing_costs_a_coin_s_entropy() -> None:
    loss = Adversarial("had")
    ours, theirs = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    loss.prepare(ours)
    assert loss.critic is not None
    with torch.no_grad():
        for parameter in loss.critic.parameters():
            parameter.zero_()
    assert float(loss(ours, theirs)) == pytest.approx(math.log(2))
    assert float(loss.critic_loss(ours, theirs).detach()) == pytest.approx(math.log(2))


@pytest.mark.parametrize("form", ["had", "multi_scale_l1"])
def test_student_and_critic_do_not_pull_at_one_another(form: str) -> None:
    torch.manual_seed(0)
    loss = Adversarial(form)
    ours, theirs = torch.rand(2, 2, 3, 8, 8)
    ours.requires_grad_()
    loss(ours, theirs).backward()
    assert loss.critic is not None and all(p.grad is None for p in loss.critic.parameters())
    assert ours.grad is not None and float(ours.grad.abs().sum()) > 0
    ours.grad = None
    loss.critic_loss(ours, theirs).backward()
    assert ours.grad is None and any(p.grad is not None for p in loss.critic.parameters())


def test_a_critic_learns_to_tell_the_two_apart() -> None:
    torch.manual_seed(0)
    loss = Adversarial("had", width=4, depth=2)
    ours, theirs = torch.rand(4, 1, 8, 8), 1 + torch.rand(4, 1, 8, 8)
    loss.prepare(ours)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        told = loss.critic_loss(ours, theirs)
        told.backward()
        optimizer.step()
    assert float(told.detach()) < 0.2 and float(loss(ours, theirs)) > 1


def test_what_is_alike_costs_nothing_at_any_scale() -> None:
    loss = Adversarial("multi_scale_l1")
    same = torch.rand(1, 2, 8, 8)
    assert float(loss(same, same)) == 0
    assert float(loss(same, 1 - same)) > 0
    assert -2 <= float(loss.critic_loss(same, 1e3 * same).detach()) <= 0  # it cannot win by growing


def test_a_critic_sees_several_layers_at_once() -> None:
    loss = Adversarial("had")
    layers = [torch.rand(1, 4, 8, 8, 8), torch.rand(1, 6, 4, 4, 4), torch.rand(1, 2, 8, 8, 8)]
    assert loss(layers, layers).shape == ()


GRADIENTS: dict[str, Callable[[], nn.Module]] = {
    "dice_ce": GroundTruth,
    "dice_focal": lambda: GroundTruth("dice_focal"),
    "focal_dice": lambda: GroundTruth("focal_dice"),
    "kd": SoftTargets,
    "attention sum": AttentionTransfer,
    "attention max": lambda: AttentionTransfer(2.0, "max"),
    "kl": BottleneckDivergence,
    "kl of sums": lambda: BottleneckDivergence("sum"),
    "contrastive": lambda: Contrastive(margin=2.0, hidden=4, out=3),
    "info_nce": lambda: InfoNCE(hidden=4, out=3),
    "had": lambda: Adversarial("had", width=3, depth=2),
    "multi_scale_l1": lambda: Adversarial("multi_scale_l1", width=3, depth=2),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    loss = GRADIENTS[name]()
    prediction, truth = torch.rand(2, 2, 3, 4, 4, dtype=torch.float64)
    if isinstance(loss, Contrastive | InfoNCE | Adversarial):
        loss.prepare(prediction)
    assert torch.autograd.gradcheck(lambda p: loss(p, truth), prediction.requires_grad_())


@pytest.mark.parametrize("name", GRADIENTS)
def test_features_on_two_grids_are_refused(name: str) -> None:
    with pytest.raises(GridMismatch):
        GRADIENTS[name]()(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 5))


def test_layers_of_two_widths_are_refused_where_they_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="compare layers of one width"):
        BottleneckDivergence()(torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4))


def test_the_total_of_equation_3_8() -> None:
    lam, alpha = 0.25, 2.0
    objective = Objective(
        [
            Term(GroundTruth(), 1 - lam),
            Term(SoftTargets(1.0), lam, ("output",), "teacher"),
            Term(BottleneckDivergence(), alpha, ("bottleneck",), "teacher"),
        ]
    )
    assert objective.layers == ("output", "bottleneck") and objective.taught == ("output", "bottleneck")
    student = {"output": LOGITS, "bottleneck": rows([0.0, math.log(3)])}
    teacher = {"output": rows([0.0, 0.0], [0.0, 0.0]), "bottleneck": rows([0.0, 0.0])}
    truth = 1 - DICE + ENTROPY
    soft = (math.log(2) - 0.5 * math.log(0.25) - 0.5 * math.log(0.75)) / 2
    divergence = 0.5 * math.log(4 / 3)
    expected = lam * soft + (1 - lam) * truth + alpha * divergence
    assert float(objective(student, teacher, TRUTH)) == pytest.approx(expected, abs=1e-5)


def test_the_teacher_gets_no_gradient() -> None:
    objective = Objective([Term(SoftTargets(), 1.0, ("output",), "teacher")])
    teacher = LOGITS.clone().requires_grad_()
    student = LOGITS.clone().requires_grad_()
    objective({"output": student}, {"output": teacher}, TRUTH).backward()
    assert teacher.grad is None and student.grad is not None
