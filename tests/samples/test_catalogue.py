import inspect
import subprocess
import sys

import pytest

import mmtk.samples
from mmtk.errors import ConfigError
from mmtk.samples import SAMPLES, make


def test_the_package_and_its_catalogue_load_nothing_heavy():
    code = (
        "import sys, mmtk.samples; mmtk.samples.SAMPLES; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'scipy', 'nibabel')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_making_a_sample_needs_no_torch(tmp_path):
    code = (
        "import sys, mmtk.samples as s; s.make('tumor_brain', sys.argv[1], {'dim': '2', 'spacing': '4'}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")]).returncode == 0


@pytest.mark.parametrize("name", SAMPLES)
def test_a_function_and_its_options_agree_on_names_and_defaults(name):
    recipe = SAMPLES[name]
    signature = inspect.signature(recipe.function()).parameters
    fields = recipe.options.model_fields
    assert set(signature) == set(fields)
    assert {k: p.default for k, p in signature.items()} == {k: f.default for k, f in fields.items()}
    assert all(field.description for field in fields.values())


def test_every_public_name_is_there():
    assert all(getattr(mmtk.samples, name) is not None for name in mmtk.samples.__all__)


def test_options_are_read_from_text(tmp_path):
    options = {"dim": "2", "spacing": "4", "growth": "6,9", "kind": "lookalike", "brain": "none", "seed": "7"}
    folder = make("tumor_brain", tmp_path / "out", options)
    import json

    facts = json.loads((folder / "sample.json").read_text())
    assert facts["growth"] == [6, 9] and facts["seed"] == 7 and facts["kind"] == "lookalike"


def test_several_shapes_get_a_folder_each(tmp_path):
    options = {"count": "2", "size": "64", "steps": "5", "amplitude": "300"}
    folder = make("c_shapes", tmp_path / "letters", options)
    assert sorted(path.name for path in folder.iterdir()) == ["000", "001"]
    assert (folder / "001" / "moving.nii.gz").is_file()


def test_all_slips_are_told_at_once_and_nothing_is_written(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError) as caught:
        make("tumor_brain", out, {"knd": "bright", "noise": "much", "kind": "resectd", "growth": "8"})
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "did you mean 'kind'" in text and "did you mean 'resected'" in text and "noise: " in text
    assert "growth: must be two numbers" in text
    with pytest.raises(ConfigError, match="did you mean 'c_shapes'"):
        make("c_shape", out)
    assert not out.exists()
