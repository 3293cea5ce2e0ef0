"""Contracts: laws that every part of a family keeps, as classes of tests.

Subclass the contract of your part's family, give it one fixture, and run pytest::

    import pytest
    from mmtk.testing import SimilarityContract
    from my_plugin import MySimilarityConfig


    class TestMySimilarity(SimilarityContract):
        @pytest.fixture
        def part(self):
            return MySimilarityConfig()

The laws may grow with mmtk: pin its version where a new one must not stop you.
"""

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mmtk.testing needs pytest: pip install 'mmtk[testing]'", name="pytest") from error

# A law that is broken shows both sides of its comparison, as in a test module.
_FAMILIES = ("integrators", "losses", "methods", "metrics", "regularizers", "segmenters", "similarities")
pytest.register_assert_rewrite(*(f"mmtk.testing.{name}" for name in ("base", "bundles", *_FAMILIES)))

from mmtk.testing.base import Contract  # noqa: E402
from mmtk.testing.bundles import BundleContract  # noqa: E402
from mmtk.testing.integrators import IntegratorContract  # noqa: E402
from mmtk.testing.losses import LossContract  # noqa: E402
from mmtk.testing.methods import MethodContract  # noqa: E402
from mmtk.testing.metrics import MetricContract  # noqa: E402
from mmtk.testing.regularizers import RegularizerContract  # noqa: E402
from mmtk.testing.segmenters import SegmenterContract  # noqa: E402
from mmtk.testing.similarities import SimilarityContract  # noqa: E402

__all__ = [
    "CONTRACTS",
    "BundleContract",
    "Contract",
    "IntegratorContract",
    "LossContract",
    "MethodContract",
    "MetricContract",
    "RegularizerContract",
    "SegmenterContract",
    "SimilarityContract",
]

#: The contract of each family of parts. Bundles are no parts; theirs is :class:`BundleContract`.
CONTRACTS: dict[str, type[Contract]] = {
    "integrator": IntegratorContract,
    "loss": LossContract,
    "method": MethodContract,
    "metric": MetricContract,
    "regularizer": RegularizerContract,
    "segmenter": SegmenterContract,
    "similarity": SimilarityContract,
}
