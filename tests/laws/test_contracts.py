"""Every part that the installed plugins offer keeps the contract of its family."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mmtk.config import ComponentConfig
from mmtk.plugins import FAMILIES, installed
from mmtk.plugins.writing import write_package
from mmtk.testing import (
    CONTRACTS,
    BundleContract,
    IntegratorContract,
    LossContract,
    MethodContract,
    MetricContract,
    RegularizerContract,
    SegmenterContract,
    SimilarityContract,
)


def offered(family: str, template: str | None = None) -> Any:
    """A fixture that goes through all parts of a family, with the settings they have by themselves.

    Args:
        template: Also the part that ``mmtk plugins new`` writes, under this name: a family may have no part yet.
    """
    # What is learned does nothing before it was trained: tests/learned trains it first.
    offers = [offer for offer in installed().offers(family) if not offer.config.capabilities.learned]
    configs: list[Any] = [offer.config for offer in offers] + [template] * (template is not None)
    names = [offer.full_name for offer in offers] + ["template"] * (template is not None)

    @pytest.fixture(params=configs, ids=names)
    def part(self: Any, request: pytest.FixtureRequest) -> ComponentConfig:
        if isinstance(request.param, str):
            return request.getfixturevalue("written")(family, request.param)
        return request.param()

    return part


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What writes the package of a new part, once, and returns the part's description."""
    folder, parts = tmp_path_factory.mktemp("written"), {}

    def write(family: str, name: str) -> ComponentConfig:
        if name not in parts:
            place = str(write_package(name, family, folder, installed()) / "src")
            patch.syspath_prepend(place)
            patch.setenv("PYTHONPATH", place, prepend=os.pathsep)
            plugin = importlib.import_module(f"{name.replace('-', '_')}.plugin")
            (parts[name],) = getattr(plugin, FAMILIES[family])()
        return parts[name]()

    with pytest.MonkeyPatch.context() as patch:
        yield write


class TestEverySimilarity(SimilarityContract):
    part = offered("similarity")


class TestEveryRegularizer(RegularizerContract):
    part = offered("regularizer")


class TestEveryIntegrator(IntegratorContract):
    part = offered("integrator")


class TestEveryMethod(MethodContract):
    part = offered("method")


class TestEverySegmenter(SegmenterContract):
    part = offered("segmenter", "spot-finder")


class TestEveryLoss(LossContract):
    part = offered("loss", "rooted-squares")


class TestEveryMetric(MetricContract):
    part = offered("metric", "mean-motion")


class TestEveryBundle(BundleContract):
    run = False  # takes half a minute: see below

    @pytest.fixture(params=sorted(installed().bundles))
    def bundle(self, request: pytest.FixtureRequest) -> str:
        return request.param


@pytest.mark.slow
class TestEveryBundleRuns(BundleContract):
    @pytest.fixture(params=sorted(installed().bundles))
    def bundle(self, request: pytest.FixtureRequest) -> str:
        return request.param


def test_every_family_has_a_contract() -> None:
    assert set(CONTRACTS) == set(FAMILIES)


def test_without_pytest_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "mmtk.testing")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmtk\[testing\]'"):
        importlib.import_module("mmtk.testing")
