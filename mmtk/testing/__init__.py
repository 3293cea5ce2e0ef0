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
pytest.register_assert_rewrite(
    *(f"mmtk.testing.{name}" for name in ("base", "integrators", "methods", "regularizers", "similarities"))
)

from mmtk.testing.base import Contract  # noqa: E402
from mmtk.testing.integrators import IntegratorContract  # noqa: E402
from mmtk.testing.methods import MethodContract  # noqa: E402
from mmtk.testing.regularizers import RegularizerContract  # noqa: E402
from mmtk.testing.similarities import SimilarityContract  # noqa: E402

__all__ = [
    "CONTRACTS",
    "Contract",
    "IntegratorContract",
    "MethodContract",
    "RegularizerContract",
    "SimilarityContract",
]

#: The contract of each family of parts that has one.
CONTRACTS: dict[str, type[Contract]] = {
    "integrator": IntegratorContract,
    "method": MethodContract,
    "regularizer": RegularizerContract,
    "similarity": SimilarityContract,
}
