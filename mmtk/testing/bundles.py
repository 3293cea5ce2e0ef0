"""Laws of every bundle: what ``mmtk bundles check`` looks at, one test each, and two more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from mmtk.bundle.check import check, short_settings
from mmtk.bundle.recipe import read_recipe, segments
from mmtk.bundle.search import Found, find
from mmtk.config import LearnedConfig, Recipe
from mmtk.method import Pair
from mmtk.plugins import installed
from mmtk.settings import Setting, resolve
from mmtk.testing.base import holds_little
from mmtk.testing.phantoms import LARGE, blob

__all__ = ["BundleContract"]


@pytest.mark.filterwarnings("ignore")  # MONAI warns of its own optional parts while it is imported
class BundleContract:
    """What makes a folder a bundle that others can run. Subclass it and give the fixture ``bundle``.

    A bundle that is installed is trusted for that, so what asks for trust in it is skipped and named; what lies in a
    folder must ask for none.

    Attributes:
        run: Whether it is also run on a small pair, by mmtk and by MONAI; about half a minute.
        device: Where memory is measured.
        memory: Most that its method may hold at once on a grid of 32^3 voxels, in images of that size and float32.

    Example::

        class TestMine(BundleContract):
            @pytest.fixture
            def bundle(self):
                return "my_bundle"
    """

    run: ClassVar[bool] = True
    device: ClassVar[str] = "cpu"
    memory: ClassVar[float] = 200

    @pytest.fixture
    def bundle(self) -> str | Path:
        """The bundle under test, its name or its folder: the one fixture that a subclass has to give."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `bundle` that returns a name or a folder"
        )

    @pytest.fixture
    def found(self, bundle: str | Path) -> Found:
        """Where the bundle is."""
        found = find(str(bundle), installed())
        if not segments(found.folder) and (told := self.recipe(found).method.missing()):
            pytest.skip(told)
        return found

    def test_its_files_are_there(self, found: Found) -> None:
        self.passes("layout", found)

    def test_its_metadata_are_complete(self, found: Found) -> None:
        self.passes("metadata", found)

    def test_the_versions_that_it_needs_are_installed(self, found: Found) -> None:
        self.passes("versions", found)

    def test_its_recipe_is_one_that_mmtk_runs(self, found: Found) -> None:
        self.passes("recipe", found)

    def test_it_has_the_ids_that_monai_asks_for(self, found: Found) -> None:
        self.passes("properties", found)

    def test_nothing_in_it_asks_for_trust(self, found: Found) -> None:
        self.passes("scan", found)

    def test_its_targets_are_what_they_are_called(self, found: Found) -> None:
        self.passes("targets", found)

    def test_its_weights_are_those_of_its_network(self, found: Found) -> None:
        self.passes("weights", found)

    def test_mmtk_and_monai_run_it_with_one_result(self, found: Found) -> None:
        if not self.run:
            pytest.skip("this class says run = False")
        self.passes("run", found, run=True)

    def test_its_recipe_survives_a_round_trip_through_json(self, found: Found) -> None:
        if segments(found.folder):
            pytest.skip("it finds lesions; its recipe is its segmenter's description, which has a contract")
        recipe = self.recipe(found)
        text = recipe.model_dump_json(by_alias=True)
        try:
            again = Recipe.model_validate_json(text, context={"catalogue": installed()})
        except ValueError as error:
            raise AssertionError(f"the recipe does not read what it wrote, {text}: {error}") from error
        assert again == recipe
        assert again.model_dump_json(by_alias=True) == text

    def test_its_method_holds_few_images_at_once(self, found: Found) -> None:
        if segments(found.folder):
            pytest.skip("it has no method; its segmenter has a contract")
        method = self.recipe(found, short_settings(found.folder, installed())).method
        if 3 not in method.capabilities.dims:
            pytest.skip("memory is measured in 3-D")
        if isinstance(method, LearnedConfig):
            pytest.skip("its weights belong to a grid of their own")
        moving, fixed = (blob(LARGE, (at, 0, 0), (29, 25, 27), device=self.device) for at in (3.0, 0.0))
        spot = blob(LARGE, (8, 6, 4), (9, 9, 9), device=self.device)
        pair = Pair(moving - 0.5 * spot, fixed, LARGE, mask=(spot > 0.1).to(torch.float32))
        holds_little(lambda: method.build().to(self.device).register(pair), self.memory)

    def recipe(self, found: Found, settings: dict[str, Any] | None = None) -> Recipe:
        """The bundle's recipe, with settings of its method replaced."""
        base, _ = read_recipe(found.folder)
        typed = [Setting(f"method.{key}", value) for key, value in (settings or {}).items()]
        return resolve(typed, base, installed(), Recipe)

    def passes(self, name: str, found: Found, *, run: bool = False) -> None:
        """Hold the bundle to one verdict of the check; what the check passes over is skipped for the same reason."""
        verdict = next(verdict for verdict in check(found, installed(), run=run) if verdict.name == name)
        assert verdict.ok, "\n".join(verdict.problems)
        if verdict.skipped:
            pytest.skip(verdict.skipped)
