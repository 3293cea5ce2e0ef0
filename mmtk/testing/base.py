"""What the contracts share: the part under test, its description, and the few ways to say that a law is broken.

A contract is a class of tests. Its laws take the part as an argument, so that a law can also be called by hand:
``SimilarityContract().test_a_batch_is_the_sum_of_its_elements(part, dims=(2, 3))``.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError

from mmtk.config import Capabilities, ComponentConfig
from mmtk.plugins import installed
from mmtk.testing.memory import peak_bytes

__all__ = ["Contract", "holds_little", "is_its_gradient", "refuses", "stays_untouched", "turns"]


class Contract:
    """Laws of every part. Subclass the contract of your family and give the fixture ``part``.

    The part is a description (:class:`mmtk.config.ComponentConfig`), or an object that is built already; for the
    latter, the laws about descriptions are skipped.

    Attributes:
        device: Where parts and tensors are put, such as ``"cuda"``.
        memory: Most that one call may hold at once on a grid of 32^3 voxels, in images of that size and float32.
    """

    base: ClassVar[type]
    device: ClassVar[str] = "cpu"
    memory: ClassVar[float]

    @pytest.fixture
    def part(self) -> Any:
        """The part under test: the one fixture that a subclass has to give."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `part` that returns the part to be tested"
        )

    @pytest.fixture(autouse=True)
    def _limits_of_its_own(self, part: Any) -> None:
        """What the description says that the part keeps takes the place of what the contract asks."""
        for name, value in (part.limits if isinstance(part, ComponentConfig) else {}).items():
            if not isinstance(getattr(type(self), name, None), (int, float)):
                known = [n for n in dir(type(self)) if isinstance(getattr(type(self), n), (int, float))]
                raise AssertionError(f"limits: '{name}' is none of this contract's: {', '.join(known)}")
            setattr(self, name, value)

    @pytest.fixture
    def built(self, part: Any) -> Any:
        """The part, built, on its device."""
        return self.make(part)

    @pytest.fixture
    def config(self, part: Any) -> ComponentConfig:
        """The part's description."""
        if not isinstance(part, ComponentConfig):
            pytest.skip("the part was given built, without a description")
        return part

    @pytest.fixture
    def capabilities(self, part: Any) -> Capabilities:
        """What the part says that it can do."""
        return part.capabilities if isinstance(part, ComponentConfig) else Capabilities()

    @pytest.fixture
    def dims(self, capabilities: Capabilities) -> tuple[int, ...]:
        """The numbers of axes that the part takes."""
        return capabilities.dims

    @pytest.fixture(autouse=True)
    def _its_modules_are_installed(self, part: Any) -> None:
        if isinstance(part, ComponentConfig) and part.missing():
            pytest.skip(part.missing())

    def make(self, part: Any) -> Any:
        """Build a description; an object is copied, so that a law may change it."""
        built = part.build() if isinstance(part, ComponentConfig) else copy.deepcopy(part)
        return built.to(self.device) if isinstance(built, nn.Module) else built

    def test_it_is_built_as_what_its_family_promises(self, built: Any) -> None:
        assert isinstance(built, self.base), f"{type(built)} is not derived from {self.base}"

    def test_it_survives_pickling(self, built: Any) -> None:
        try:
            again = pickle.loads(pickle.dumps(built))
        except Exception as error:
            raise AssertionError(f"other processes cannot be given this part: {error}") from error
        if type(built).__repr__ is not object.__repr__:  # which tells an address, and nothing of the part
            assert repr(again) == repr(built)

    def test_its_description_survives_a_round_trip_through_json(self, config: ComponentConfig) -> None:
        text = config.model_dump_json(by_alias=True)
        try:
            again = type(config).model_validate_json(text, context={"catalogue": installed()})
        except ValidationError as error:
            raise AssertionError(f"the description does not read what it wrote, {text}: {error}") from error
        assert again == config
        assert again.model_dump_json(by_alias=True) == text

    def test_its_description_says_what_every_setting_means(self, config: ComponentConfig) -> None:
        kind = type(config)
        assert kind.summary.strip(), "its docstring is the line that a listing shows"
        silent = [name for name, field in kind.model_fields.items() if name != "kind" and not field.description]
        assert not silent, f"fields without a description: {', '.join(silent)}"

    def test_its_description_loads_no_torch(self, config: ComponentConfig) -> None:
        module = type(config).__module__
        said = _imports(module)
        if said is None:
            pytest.skip(f"{module} cannot be imported alone")
        assert said == "False", f"`import {module}` loads torch; a listing of parts must not wait for that"

    def test_its_description_refuses_what_it_does_not_know(self, config: ComponentConfig) -> None:
        settings = {**config.model_dump(by_alias=True), "no_such_setting": 1}
        try:
            type(config).model_validate(settings, context={"catalogue": installed()})
        except ValidationError as error:
            assert "no_such_setting" in str(error)
        else:
            raise AssertionError("a slip in a setting's name goes unnoticed; leave extra='forbid' as it is")


@cache
def _imports(module: str) -> str | None:
    """Return whether torch is loaded with a module, as a fresh interpreter prints it; None: it fails to import."""
    line = f"import sys, importlib; importlib.import_module({module!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)
    return done.stdout.split()[-1] if done.returncode == 0 else None


def is_its_gradient(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Hold the derivatives of ``function`` to finite differences, in float64."""
    try:
        gradcheck(function, tuple(x.detach().clone().requires_grad_() for x in inputs))
    except GradcheckError as error:
        raise AssertionError(f"the gradient is not that of finite differences: {error}") from error


def refuses(call: Callable[[], Any], error: type[Exception]) -> None:
    """See that ``call`` ends in our own error, and that it says something."""
    try:
        call()
    except error as told:
        assert str(told).strip(), f"{error.__name__} came without a sentence"
    except Exception as other:
        raise AssertionError(f"expected {error.__name__}, got {type(other).__name__}: {other}") from other
    else:
        raise AssertionError(f"expected {error.__name__}; nothing was refused")


def stays_untouched(call: Callable[[], Any], *inputs: Tensor) -> None:
    """See that ``call`` writes to none of its inputs."""
    before = [x.detach().clone() for x in inputs]
    call()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True)), "an input was written to"


def holds_little(call: Callable[[], Any], images: float) -> None:
    """See that ``call`` holds no more at once than so many images of 32^3 voxels in float32."""
    held = peak_bytes(call) / (4 * 32**3)
    assert held <= images, f"{held:.0f} images are held at once; at most {images:g} are allowed"


def turns(dim: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield how a scan may lie: axes that are flipped, and the order that the axes then are put in."""
    order = tuple(range(dim))
    for axis in order:
        yield (axis,), order
    yield (), order[::-1]
    yield (0,), (*order[1:], 0)
