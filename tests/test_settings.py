"""``key=value``: where a setting lands, and every refusal word for word."""

from typing import Any

import pytest

from mmtk.config import Recipe, RunConfig
from mmtk.errors import ConfigError
from mmtk.plugins import installed
from mmtk.settings import Setting, read_settings, resolve

BASE = {"method": {"kind": "metamorphosis", "mu": 0.2, "similarity": {"kind": "lncc", "radius": 4}}}


def recipe(*words: str, base: dict[str, Any] | None = None, model: type[Recipe] = Recipe) -> Any:
    settings, problems = read_settings(words)
    return resolve(settings, BASE if base is None else base, installed(), model, problems)


def problems(*words: str, **how: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        recipe(*words, **how)
    return caught.value.problems


def test_what_nobody_set_comes_from_the_bundle():
    method = recipe().method
    assert (method.mu, method.similarity.kind, method.similarity.radius) == (0.2, "lncc", 4)


@pytest.mark.parametrize("key", ["mu", "method.mu"])
def test_settings_of_the_method_need_no_prefix(key):
    assert recipe(f"{key}=0.7").method.mu == 0.7


@pytest.mark.parametrize("key", ["lam", "lambda", "method.lambda"])
@pytest.mark.parametrize("base", ["lam", "lambda"])
def test_an_alias_is_the_field(key, base):
    method = {"kind": "metamorphosis", base: 1e-3}
    assert recipe(f"{key}=2e-5", base={"method": method}).method.lam == 2e-5


def test_the_same_part_keeps_its_settings_and_another_starts_anew():
    assert recipe("similarity=lncc").method.similarity.radius == 4
    assert recipe("similarity.stride=2").method.similarity.radius == 4
    assert recipe("similarity=local_ssd").method.similarity.radius == 2
    assert recipe("similarity.kind=ssd").method.similarity.model_dump() == {"kind": "ssd"}
    assert recipe("similarity.radius=7", "similarity=local_ssd").method.similarity.radius == 7


def test_another_method_starts_anew():
    described = recipe("method=lddmm", "steps=3")
    assert described.method.kind == "lddmm"
    assert described.method.steps == 3
    assert described.method.similarity.kind == "local_ssd"


def test_a_part_of_a_list_is_reached_by_its_name():
    described = recipe("regularizers=bending", "regularizers.bending.weight=2", "regularizers.diffusion.weight=3")
    assert [(r.kind, r.weight) for r in described.method.regularizers] == [("bending", 2.0), ("diffusion", 3.0)]


def test_only_the_first_equals_sign_separates(tmp_path):
    image = tmp_path / "b=c.nii.gz"
    image.write_bytes(b"image")
    assert recipe(f"moving={image}", f"fixed={image}", model=RunConfig).moving == image


def test_values_from_python_need_no_text():
    settings = [Setting("levels", (4, 2)), Setting("iterations", [3, 4]), Setting("checkpoint", False)]
    method = resolve(settings, BASE, installed(), Recipe).method
    assert (method.levels, method.iterations, method.checkpoint) == ((4.0, 2.0), (3, 4), False)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("mu=-0.1", "mu=-0.1: must be >= 0"),
        ("lambda=0", "lambda=0: must be > 0"),
        ("squarings=13", "squarings=13: must be <= 12"),
        ("mu=high", "mu=high: 'high' is not a number"),
        ("order=none", "order=none: 'none' is not a number"),
        ("mu=inf", "mu=inf: must be a finite number"),
        ("steps=2.5", "steps=2.5: '2.5' is not a whole number"),
        ("checkpoint=maybe", "checkpoint=maybe: 'maybe' is neither on nor off"),
        ("levels=8,x,2", "levels=8,x,2: item 2 'x' is not a number"),
        ("levels={8}", "levels={8}: must be a list, such as 4,2,1 or [4, 2, 1]"),
        ("muu=3", "muu=3: unknown key; did you mean 'mu'?"),
        ("mew=3", "mew=3: unknown key; `mmtk show metamorphosis` lists the keys"),
        ("similarity.raduis=3", "similarity.raduis=3: unknown key; did you mean 'similarity.radius'?"),
        ("similarity.q=3", "similarity.q=3: unknown key; lncc has radius, stride, eps"),
        ("method.muu=3", "method.muu=3: unknown key; did you mean 'method.mu'?"),
        ("mu.low=3", "mu.low=3: 'mu' is a value and has no settings of its own; write mu=VALUE"),
        ("mask.x=3", "mask.x=3: unknown key; did you mean 'masked'?"),
        ("regularizers.bending=2", "regularizers.bending=2: 'bending' is a part; set one of weight in it"),
        (
            "similarity=lnc",
            "similarity=lnc: no similarity is called 'lnc'; did you mean 'lncc'? "
            "Installed: lncc, local_ssd, mae, mi, ncc, ssd, vir",
        ),
        ("lesion=grown", "lesion=grown: must be one of unknown, replaced, grew, collapsed; did you mean 'grew'?"),
        (
            "init=ridgid",
            "init=ridgid: must be one of none, center, rigid, affine, or the file of a transform; "
            "did you mean 'rigid'?",
        ),
        ("levels=8,4", "levels=8,4 and iterations=12,12,10 must be equally long: 2 against 3"),
        ("sigma_weights=1,0.1", "sigma_weights=1,0.1: weights of what? Give sigma, too"),
        ("levels=2,4,8", "levels=2,4,8: must run from coarse to fine, such as 8,4,2"),
        (
            "method=lddm",
            "method=lddm: no method is called 'lddm'; did you mean 'lddmm'? "
            f"Installed: {', '.join(offer.name for offer in installed().offers('method'))}",
        ),
        ("mu=$x", "mu=$x: a value must not begin with $, @ or %, which MONAI would evaluate"),
        ("mu=@x", "mu=@x: a value must not begin with $, @ or %, which MONAI would evaluate"),
        ("mu=%x", "mu=%x: a value must not begin with $, @ or %, which MONAI would evaluate"),
        ("mu=", "mu=: no value; leave the key out to keep its default"),
        ("=3", "=3: there is no key before the '='"),
        ("a..b=3", "a..b=3: there is no key before the '='"),
        ("scan.nii", "scan.nii: settings are written key=value, such as moving=scan.nii"),
        ("--mu=3", "--mu=3: no such option; use mu=3 (run settings are key=value)"),
        ("--mu", "--mu: no such option; use mu=VALUE (run settings are key=value)"),
    ],
)
def test_a_slip_is_answered_at_its_place(word, problem):
    assert problems(word) == [problem]


def test_an_option_and_the_value_after_it_are_one_slip():
    assert problems("--mu", "3") == ["--mu 3: no such option; use mu=3 (run settings are key=value)"]
    _, found = read_settings(["--overwrit"], options=["--overwrite", "--out"])
    assert found == ["--overwrit: no such option; did you mean '--overwrite'?"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("mu=1", "mu=2"), "mu=1 and mu=2: both set method.mu; give one of them"),
        (("mu=1", "method.mu=2"), "mu=1 and method.mu=2: both set method.mu; give one of them"),
        (("lam=1", "lambda=2"), "lam=1 and lambda=2: both set method.lam; give one of them"),
        (
            ("similarity=ssd", "similarity.kind=mi"),
            "similarity=ssd and similarity.kind=mi: both set method.similarity; give one of them",
        ),
    ],
)
def test_what_is_set_twice_is_refused_naming_both(words, problem):
    assert problems(*words) == [problem]


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"image")
    found = problems(
        f"moving={tmp_path}/b.nii.gz", "mu=-1", "stepz=3", "similarity.radius=0", "mask=", model=RunConfig
    )
    assert found == [
        "mask=: no value; leave the key out to keep its default",
        "stepz=3: unknown key; did you mean 'steps'?",
        "similarity.radius=0: must be >= 1",
        "mu=-1: must be >= 0",
        f"moving={tmp_path}/b.nii.gz: no such file; did you mean 'a.nii.gz'?",
        "fixed: missing; give fixed=FILE",
    ]


def test_fields_that_do_not_fit_one_another_are_told_at_once():
    assert problems("levels=2,8", "sigma=3", "sigma_weights=0") == [
        "levels=2,8 and iterations=12,12,10 must be equally long: 2 against 3",
        "levels=2,8: must run from coarse to fine, such as 8,4,2",
        "sigma_weights=0: at least one must be > 0",
    ]


def test_without_bundle_or_method_the_rest_is_still_checked():
    found = problems("mu=3", "init=foo", base={})
    assert found[0] == "nothing says how to register: give bundle=NAME or method=NAME"
    assert found[1].startswith("init=foo: must be one of")


def test_what_a_bundle_says_is_checked_as_if_typed():
    broken = {"method": {"kind": "lddmm", "steps": 0, "mu": 3}, "normalize": "loud"}
    assert problems(base=broken) == [
        "normalize: must be one of robust, histogram, none",
        "steps: must be >= 1",
        "mu: unknown key; lddmm has " + ", ".join(_lddmm_keys()),
    ]


def _lddmm_keys() -> list[str]:
    config = installed().find("method", "lddmm")
    return [field.alias or name for name, field in config.model_fields.items() if name != "kind"]
