"""The catalogue: broken plugins are listed and stop nothing else; names that clash are refused."""

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from mmtk.config import ComponentConfig, load_target
from mmtk.errors import ConfigError, PluginError
from mmtk.plugins import BASES, FAMILIES, PLUGIN_API, Catalogue, Command, hookimpl, installed, load


class Fast(ComponentConfig):
    """Fast."""

    target = "builtins:dict"
    kind: Literal["fast"] = "fast"


class OtherFast(Fast):
    """Fast as well."""


class Nameless(ComponentConfig):
    """No name."""

    target = "builtins:dict"


class Aimless(ComponentConfig):
    """No target."""

    kind: Literal["aimless"] = "aimless"


def plugin(**hooks: Any) -> SimpleNamespace:
    """A plugin whose hooks return what is given; an exception is raised."""
    names = {}
    for name, answer in hooks.items():
        if not name.startswith("mmtk_"):
            names[name] = answer
            continue

        def hook(answer: Any = answer) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        names[name] = hookimpl(specname=name)(lambda hook=hook: hook())
        names[name].__name__ = name
    return SimpleNamespace(**names)


@dataclass
class EntryPoint:
    name: str
    loaded: Any
    distribution: str = ""

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.distribution or f"{self.name}-dist", version="1.2")

    def load(self) -> Any:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded


def catalogue(*entry_points: EntryPoint, **environ: str) -> Catalogue:
    return load(entry_points, environ)


GOOD = EntryPoint("good", plugin(mmtk_methods=[Fast]))


def test_a_part_is_found_by_family_and_name():
    parts = catalogue(GOOD)
    assert parts.find("method", "fast") is Fast
    assert parts.find("method", "good-dist:fast") is Fast
    assert [offer.full_name for offer in parts.offers()] == ["good-dist:fast"]


@pytest.mark.parametrize(
    ("loaded", "error"),
    [
        (ImportError("no module\nnamed torch"), "ImportError: no module named torch"),
        (SystemExit(3), "SystemExit: 3"),
        (plugin(mmtk_methods=RuntimeError("boom")), "RuntimeError: boom"),
        (
            plugin(mmtk_methods=["fast"]),
            "PluginError: mmtk_methods returned 'fast'; expected classes derived from",
        ),
        (plugin(mmtk_methods=[Nameless]), "PluginError: Nameless has no name; give it kind: Literal['name']"),
        (plugin(mmtk_methods=[Aimless]), "PluginError: Aimless has no target; give it target = "),
        (
            plugin(requires_api="2", mmtk_methods=[Fast]),
            "PluginError: it needs plugin API 2, and this mmtk has 1; upgrade mmtk",
        ),
        (plugin(requires_api="new"), "PluginError: requires_api is 'new'; expected the number of a version"),
        (
            plugin(requires_api="0"),
            "PluginError: it was written for plugin API 0, and this mmtk knows 1 to 1; upgrade the plugin",
        ),
        (plugin(mmtk_methods="fast"), "PluginError: mmtk_methods returned 'fast'; expected a list"),
        (plugin(mmtk_methods=[Fast, OtherFast]), "PluginError: Fast and OtherFast are both called 'fast'"),
        (
            SimpleNamespace(mmtk_methods=lambda: [Fast]),
            "PluginError: mmtk_methods is not marked as a hook; write @mmtk.hookimpl above it",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_stops_only_who_asks_for_it(loaded, error):
    parts = catalogue(EntryPoint("bad", loaded), GOOD)
    (broken,) = parts.broken
    assert (broken.name, broken.distribution, broken.version, broken.offers) == ("bad", "bad-dist", "1.2", ())
    assert broken.error.startswith(error)
    assert parts.find("method", "fast") is Fast
    with pytest.raises(PluginError, match=r"Installed: fast. Not loaded: plugin 'bad' \(bad-dist 1.2\): "):
        parts.find("method", "slow")
    with pytest.raises(ConfigError, match="no method is called 'good-dist:slow'"):
        parts.find("method", "good-dist:slow")


def test_a_slip_in_the_name_of_a_hook_is_answered_with_the_nearest():
    class Plugin:
        @staticmethod
        @hookimpl
        def mmtk_metods():
            return [Fast]

    (broken,) = catalogue(EntryPoint("bad", Plugin)).broken
    assert broken.error == "PluginError: there is no hook called 'mmtk_metods'; did you mean 'mmtk_methods'?"


def test_a_hook_with_an_unknown_argument_breaks_only_its_plugin():
    class Plugin:
        @staticmethod
        @hookimpl
        def mmtk_methods(config):
            return [Fast]

    parts = catalogue(EntryPoint("bad", Plugin), GOOD)
    assert "mmtk_methods" in parts.broken[0].error
    assert parts.find("method", "fast") is Fast


def test_a_name_that_two_offer_is_refused_naming_both_and_can_be_chosen():
    parts = catalogue(GOOD, EntryPoint("other", plugin(mmtk_methods=[OtherFast])))
    with pytest.raises(ConfigError) as caught:
        parts.find("method", "fast")
    assert str(caught.value) == (
        "'fast' is offered by good-dist and other-dist; choose one: good-dist:fast or other-dist:fast"
    )
    assert parts.find("method", "other-dist:fast") is OtherFast


def test_two_plugins_of_one_distribution_are_told_apart_by_their_own_names():
    parts = catalogue(
        EntryPoint("one", plugin(mmtk_methods=[Fast]), "both"),
        EntryPoint("two", plugin(mmtk_methods=[OtherFast]), "both"),
    )
    with pytest.raises(
        ConfigError, match="by plugin one of both and plugin two of both; choose one: one:fast or two"
    ):
        parts.find("method", "fast")
    assert parts.find("method", "two:fast") is OtherFast


@pytest.mark.parametrize(
    ("wanted", "accepted"), [("3", True), (3, True), ("2", True), ("1", False), ("4", False), (None, False)]
)
def test_this_version_of_the_hooks_and_the_one_before_are_accepted(wanted, accepted, monkeypatch):
    monkeypatch.setattr("mmtk.plugins.catalogue.PLUGIN_API", "3")
    monkeypatch.setattr("mmtk.plugins.catalogue.OLDEST_API", "2")
    parts = catalogue(EntryPoint("some", plugin(requires_api=wanted, mmtk_methods=[Fast])))
    assert bool(parts.broken) is not accepted


def test_one_name_may_serve_in_two_families():
    parts = catalogue(GOOD, EntryPoint("other", plugin(mmtk_similarities=[OtherFast])))
    assert parts.find("method", "fast") is Fast
    assert parts.find("similarity", "fast") is OtherFast


@pytest.mark.parametrize(
    ("environ", "loaded"),
    [
        ({}, ["good", "other"]),
        ({"MMTK_LOAD_PLUGINS": ""}, []),
        ({"MMTK_LOAD_PLUGINS": "good, missing"}, ["good"]),
        ({"MMTK_LOAD_PLUGINS": "other-dist"}, ["other"]),
        ({"MMTK_DISABLE_PLUGINS": "good"}, ["other"]),
        ({"MMTK_LOAD_PLUGINS": "good,other", "MMTK_DISABLE_PLUGINS": "other"}, ["good"]),
    ],
)
def test_the_environment_chooses_plugins(environ, loaded):
    parts = catalogue(GOOD, EntryPoint("other", ImportError("not even imported")), **environ)
    assert [p.name for p in parts.plugins if p.status != "disabled"] == loaded


def test_bundles_and_commands_are_gathered(tmp_path):
    command = Command("convert", "Convert.", "json:dumps")
    parts = catalogue(EntryPoint("more", plugin(mmtk_bundles=[tmp_path / "b"], mmtk_commands=[command])))
    assert parts.bundle("b") == tmp_path / "b"
    assert parts.plugins[0].commands == (command,)
    with pytest.raises(ConfigError, match=r"no bundle is called 'c'. Installed: b"):
        parts.bundle("c")


def test_what_comes_with_mmtk_is_whole():
    assert PLUGIN_API == "1"
    assert [plugin.error for plugin in installed().broken] == []
    names = {(offer.family, offer.name) for offer in installed().offers()}
    assert {("method", "metamorphosis"), ("method", "lddmm"), ("similarity", "local_ssd")} <= names
    assert {
        ("integrator", name) for name in ("eulerian", "semi_lagrangian", "sharp", "lagrangian", "particles")
    } <= names


@pytest.mark.parametrize("offer", installed().offers(), ids=lambda offer: f"{offer.family}-{offer.name}")
def test_every_installed_part_describes_itself(offer):
    assert offer.family in FAMILIES
    assert offer.config.summary
    for name, field in offer.config.model_fields.items():
        assert name == "kind" or field.description, f"{offer.name}.{name} has no description"
    described = offer.config()
    context = {"catalogue": installed()}
    assert offer.config.model_validate(described.model_dump(mode="json"), context=context) == described


def test_listing_loads_no_torch():
    code = (
        "import sys\n"
        "from mmtk.plugins import installed\n"
        "assert installed().offers()\n"
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_hook_and_a_base(family):
    assert isinstance(load_target(BASES[family]), type)
    hook = plugin(**{FAMILIES[family]: [Fast]})
    assert catalogue(EntryPoint("one", hook)).find(family, "fast") is Fast


@pytest.mark.parametrize("offer", installed().offers(), ids=lambda offer: f"{offer.family}-{offer.name}")
def test_every_installed_part_is_built_and_is_of_its_family(offer):
    if offer.config.missing():
        pytest.skip(offer.config.missing())
    if offer.config.capabilities.learned:
        assert issubclass(load_target(offer.config.target), load_target(BASES[offer.family]))
        if offer.family == "loss":  # it is learned along with what it trains
            assert isinstance(offer.config().build(), load_target(BASES[offer.family]))
            return
        with pytest.raises(
            ConfigError, match=r"give weights=FILE or a bundle|[Gg]ive segmenter\.(weights|bundle)="
        ):
            offer.config().build()
        return
    assert isinstance(offer.config().build(), load_target(BASES[offer.family]))


def test_the_weight_of_a_regularizer_multiplies_its_price():
    import torch

    from mmtk.fields import Grid
    from mmtk.regularizers import Deformation

    shape = (6, 7)
    u = torch.sin(torch.arange(84, dtype=torch.float64)).view(1, 2, *shape)
    deformation = Deformation(grid=Grid(shape, (1.0, 2.0)), displacement=u)
    diffusion = installed().find("regularizer", "diffusion")
    once, twice = (diffusion(weight=weight).build()(deformation) for weight in (1.0, 2.0))
    torch.testing.assert_close(2 * once, twice)
