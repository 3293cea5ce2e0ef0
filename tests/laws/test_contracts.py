"""Every part that the installed plugins offer keeps the contract of its family."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from mmtk.config import ComponentConfig
from mmtk.plugins import installed
from mmtk.testing import CONTRACTS, IntegratorContract, MethodContract, RegularizerContract, SimilarityContract


def offered(family: str) -> Any:
    """A fixture that goes through all parts of a family, with the settings they have by themselves."""
    offers = installed().offers(family)

    @pytest.fixture(params=[offer.config for offer in offers], ids=[offer.full_name for offer in offers])
    def part(self: Any, request: pytest.FixtureRequest) -> ComponentConfig:
        return request.param()

    return part


class TestEverySimilarity(SimilarityContract):
    part = offered("similarity")


class TestEveryRegularizer(RegularizerContract):
    part = offered("regularizer")


class TestEveryIntegrator(IntegratorContract):
    part = offered("integrator")


class TestEveryMethod(MethodContract):
    part = offered("method")


def test_every_family_with_a_base_class_has_a_contract() -> None:
    assert set(CONTRACTS) == {"integrator", "method", "regularizer", "similarity"}
    assert {offer.family for offer in installed().offers()} <= set(CONTRACTS) | {"metric", "segmenter", "loss"}


def test_without_pytest_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "mmtk.testing")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmtk\[testing\]'"):
        importlib.import_module("mmtk.testing")
