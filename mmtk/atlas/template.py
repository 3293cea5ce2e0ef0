r"""The template atlas: one image and the map of every case onto it, in turn.

.. math:: (\hat I, \hat T) = \arg\min_{I, T} \sum_i S(I, I_i \circ T_i) + R(T_i)

(Maillard's thesis, eq. 1.1.) Given the image, every case is registered to it, by whatever method; given the maps, the
image is their average without the bias of its shape (:mod:`mmtk.atlas.rounds`). A lesion belongs to the appearance of
its case and has no part in the average.

    OUT/template, mean, spread, weight (.nii.gz)   of the last round
    OUT/drift.h5                                   from the template to the image that the last round registered to
    OUT/rounds/N/                                  see :mod:`mmtk.atlas.rounds`
    OUT/template.json, template.html
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmtk.atlas.rounds import Round
from mmtk.atlas.settings import TemplateConfig
from mmtk.cohort import CaseRecord, Cohort, carry_out, read_cohort
from mmtk.cohort.runner import Tell
from mmtk.errors import ConfigError
from mmtk.io import held, holds_something, probe_image, sha256, write_json, write_text
from mmtk.plugins import Catalogue

__all__ = ["Plan", "Template", "build_template", "plan_template", "rounds_of"]

#: What is taken from the last round.
IMAGES = ("template.nii.gz", "mean.nii.gz", "spread.nii.gz", "weight.nii.gz", "drift.h5")

#: Columns and settings that say what an image is registered to, which here is found.
ONTO = ("fixed", "fixed_mask", "fixed_labels")


@dataclass(frozen=True)
class Plan:
    """A template that can be made: everything that could be checked was.

    Attributes:
        table: The cohort's.
        start: The image that the affine round registers to.
        affine: Arguments of the cohort of round 0, and
        method: of the others.
    """

    table: Path
    start: Path
    config: TemplateConfig
    affine: tuple[str, ...]
    method: tuple[str, ...]
    catalogue: Catalogue
    device: str = "auto"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def cohort(self, number: int, fixed: Path) -> Cohort:
        """Return what a round registers."""
        words = self.method if number else self.affine
        return read_cohort(
            self.table, [*words, f"template={fixed}"], self.catalogue, device=self.device, seed=self.seed
        )

    def describes(self) -> dict[str, Any]:
        """Return what the result depends on besides the cases, as ``template.json`` keeps it."""
        own = self.config.model_dump(mode="json", exclude={"rounds", "keep"})
        return {"start": sha256(self.start), "template": own, "registration": dict(self.settings)}


@dataclass(frozen=True)
class Template:
    """A template that was made.

    Attributes:
        rounds: What ``round.json`` of each holds.
        added: Cases that this command has added to the last round.
    """

    out: Path
    rounds: tuple[Mapping[str, Any], ...]
    added: int

    @property
    def cases(self) -> tuple[str, ...]:
        """The names of the cases of the last round."""
        return tuple(self.rounds[-1]["cases"])

    @property
    def left_out(self) -> Mapping[str, str]:
        """The cases that are not in the last round, and why."""
        return dict(self.rounds[-1]["left_out"])


def plan_template(
    table: Path,
    arguments: Sequence[str],
    config: TemplateConfig,
    catalogue: Catalogue,
    *,
    device: str = "auto",
    seed: int = 0,
    options: Sequence[str] = (),
) -> Plan:
    """Check everything that can be checked before any work.

    Args:
        table: The cohort's ``.csv``; it says nothing of what is registered to.
        arguments: As of `mmtk cohort run`; ``template=`` is the image to begin with.
        options: Of the command, to be suggested for a slip.

    Raises:
        ConfigError: With a sentence for each thing that is wrong.
    """
    given = {word.partition("=")[0]: word for word in arguments}
    problems = [f"{given[key]}: a template is what is made here; leave it out" for key in ONTO[1:] if key in given]
    start = next((Path(given[k].partition("=")[2]) for k in ("template", "fixed") if k in given), None)
    if start is not None and not start.is_file():
        problems.append(f"template={start}: there is no such file")
    if problems:
        raise ConfigError(problems)
    others = [word for word in arguments if word.partition("=")[0] not in ("template", "fixed")]
    _refuse_columns(table)
    if start is None:
        start = _first(table)
    placed = ("scheduler", "workers", "threads", "memory", "gpus", "retries", "queue", "account", "walltime")
    affine = [word for word in others if word.partition("=")[0] in (*placed, "init", "mask")]
    plan = Plan(
        table, start.absolute(), config, ("method=identity", *affine), tuple(others), catalogue, device, seed
    )
    cohort = read_cohort(
        table, [*others, f"template={start}"], catalogue, device=device, seed=seed, options=options
    )
    for case in cohort.cases:
        if "," in case.given["moving"]:
            raise ConfigError(
                f"{table}: case {case.name}: has several modalities, and a template is of one; name one file a case"
            )
    dims = {probe_image(start, name="template").dim}
    dims |= {probe_image(case.files["moving"], name="moving").dim for case in cohort.cases[:1]}
    if len(dims) > 1:
        raise ConfigError(f"template={start}: has another dimension than the cases; give one of theirs")
    return replace(plan, settings=cohort.settings)


def build_template(
    plan: Plan,
    out: Path,
    *,
    retry: bool = False,
    rebuild: bool = False,
    tell: Tell = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    command: str | None = None,
) -> Template:
    """Make the template, or go on with it, or add the cases that are new.

    A round that is finished stays as it is. Cases that joined the table since are registered in the last round alone.

    Args:
        plan: What is asked for.
        out: Its folder: new, empty, or one that a template was begun in.
        retry: Try cases again that failed.
        rebuild: Begin anew.
        tell: Called after each case of each round.
        say: Called with a sentence as each round begins and ends.
        command: What the user typed.

    Raises:
        ConfigError: If the folder holds something else, or a template of other settings.
    """
    _refuse_folder(out, plan, rebuild)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "another `mmtk atlas template`"):
        if rebuild:
            shutil.rmtree(out / "rounds", ignore_errors=True)
        write_json(out / "template.json", {"asked": plan.describes(), "command": command})
        last, added = None, 0
        for one in rounds_of(out, plan):
            if one.finished and one.number < plan.config.rounds:
                last = one
                continue
            added = _carry(plan, one, retry, tell, say, command)
            if last is not None and not plan.config.keep:
                _thin_out(last)
            last = one
        assert last is not None
        return _written(out, plan, last, added, command)


def rounds_of(out: Path, plan: Plan) -> list[Round]:
    """Return the rounds that are asked for, first one first."""
    config = plan.config
    found: list[Round] = []
    for number in range(config.rounds + 1):
        before = found[-1] if found else None
        fixed = plan.start if before is None else before.home / "template.nii.gz"
        home = out / "rounds" / str(number)
        found.append(Round(number, home, fixed, before, config.nodes, config.length, config.sharpen))
    return found


def _carry(
    plan: Plan, one: Round, retry: bool, tell: Tell, say: Callable[[str], None], command: str | None
) -> int:
    """Carry a round out and return how many cases it has got."""
    one.home.mkdir(parents=True, exist_ok=True)
    cohort = plan.cohort(one.number, one.fixed)
    doing = "registering" if one.number else "placing"
    say(f"round {one.number} of {plan.config.rounds}: {doing} {len(cohort.cases)} cases")
    records = carry_out(cohort, one.cohort, retry=retry, tell=tell, command=command)
    done: dict[str, CaseRecord] = {record.case: record for record in records if not record.failed}
    left_out = {record.case: record.message for record in records if record.failed}
    if not done:
        name, why = next(iter(left_out.items()))
        raise ConfigError(f"round {one.number}: no case could be registered, such as {name}: {why}")
    before = len(one.sums().cases)
    sums = one.add(done)
    if len(sums.cases) > before or not one.finished:
        told = one.finish(sums, left_out)
        say(f"round {one.number}: sharpness {told['sharpness']['gradient']:.4f}, drift {told['drift_mm']:.2f} mm")
    else:
        told = json.loads((one.home / "round.json").read_text(encoding="utf-8"))
        write_json(one.home / "round.json", {**told, "left_out": left_out})
    return len(sums.cases) - before


def _thin_out(one: Round) -> None:
    """Remove the folders of a round's runs; its records, sums and images stay."""
    for folder in (one.cohort / "cases").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def _written(out: Path, plan: Plan, last: Round, added: int, command: str | None) -> Template:
    """Write what stands in the folder itself."""
    from mmtk.atlas.template_page import make_template_page

    for name in IMAGES:
        shutil.copyfile(last.home / name, out / name)
    told = tuple(json.loads((one.home / "round.json").read_text(encoding="utf-8")) for one in rounds_of(out, plan))
    account = {
        "asked": plan.describes(),
        "command": command,
        "rounds": told,
        "cases": {name: str(last.cohort.relative_to(out) / "cases" / name) for name in told[-1]["cases"]},
        "left_out": told[-1]["left_out"],
    }
    write_json(out / "template.json", account)
    write_text(out / "template.html", make_template_page(out, told))
    return Template(out, told, added)


def _refuse_folder(out: Path, plan: Plan, rebuild: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if not holds_something(out, beside={".lock"}):
        return
    try:
        asked = json.loads((out / "template.json").read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            f"--out {out}: the folder is not empty and holds no template; give another one"
        ) from None
    now = plan.describes()
    differing = [name for name in now if asked.get(name) != now[name]]
    if differing and not rebuild:
        words = {
            "start": "the image to begin with",
            "template": "settings of the template",
            "registration": "the method",
        }
        raise ConfigError(
            f"--out {out}: holds a template that was made otherwise ({', '.join(words[n] for n in differing)}); add "
            f"--rebuild, or name another folder"
        )
    begun = sum(path.is_dir() for path in (out / "rounds").glob("*")) - 1
    if begun > plan.config.rounds and not rebuild:
        raise ConfigError(f"--out {out}: has {begun} rounds already; ask for no fewer, or name another folder")


def _table(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return columns and rows as they stand; what is wrong with them is for :func:`read_cohort` to say."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            return [name.strip() for name in reader.fieldnames or ()], [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        return [], []


def _refuse_columns(table: Path) -> None:
    for column in _table(table)[0]:
        if column in ONTO:
            raise ConfigError(f"{table}: the column '{column}': a template is what is made here; leave it out")


def _first(table: Path) -> Path:
    """Return the scan to begin with: the first without a lesion, else the first."""
    rows = [row for row in _table(table)[1] if (row.get("moving") or "").strip()]
    if not rows:
        raise ConfigError(
            f"{table}: there is no such table, or no column 'moving' in it; give a .csv with case, moving"
        )
    whole = [row for row in rows if (row.get("mask") or "").strip() in ("", "none")]
    found = (table.parent / (whole or rows)[0]["moving"].strip().split(",")[0]).expanduser()
    if not found.is_file():
        raise ConfigError(f"{table}: moving: there is no file '{found}'; mend the table")
    return found
