"""Every part that the installed plugins offer keeps the contract of its family."""

from __future__ import annotations

from typing import Any

import pytest

from mmtk.config import ComponentConfig
from mmtk.plugins import installed
from mmtk.testing import IntegratorContract, MethodContract, RegularizerContract, SimilarityContract


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
