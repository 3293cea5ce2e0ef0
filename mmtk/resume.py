"""What outlives a run that dies: the last finished level, in one file, with all that it depends on.

    state.safetensors      the method's tensors, and the state of the generator of random numbers
        key                settings, digests of the images, seed, device and versions, as JSON
        levels             the reports of the finished levels, as JSON

A run goes on from it only if the whole key is its own. So it ends as it would have ended without the interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from mmtk import io
from mmtk.errors import ConfigError
from mmtk.method import Milestone, Milestones
from mmtk.result import LevelReport, Outcome

__all__ = ["KeptMilestones"]

NAME = "state.safetensors"
FORMAT = "mmtk.state.1"
#: The generator's state, among the tensors of the method.
_RANDOM = "/random"


class KeptMilestones(Milestones):
    """Keeps the last milestone beside the files of a run in the making.

    Args:
        place: The run's folder in the making.
        key: What the state depends on, as plain data.

    Raises:
        ConfigError: If the folder has a state that depends on something else, or that cannot be read.
    """

    def __init__(self, place: io.Making, key: Mapping[str, Any]) -> None:
        self.place, self.path, self.key = place, place.partial / NAME, json.loads(json.dumps(key, default=str))
        self._past = self._read() if self.path.exists() else None

    @property
    def finished(self) -> int:
        """How many levels an earlier run has finished."""
        return 0 if self._past is None else len(self._past.levels)

    def last(self) -> Milestone | None:
        """Return the milestone of the earlier run, and set the generator of random numbers as it was then."""
        if self._past is None:
            return None
        state = dict(self._past.state)
        torch.set_rng_state(state.pop(_RANDOM))
        return Milestone(state, self._past.levels)

    def reached(self, milestone: Milestone) -> None:
        """Write a milestone in place of the one before, whole or not at all."""
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in milestone.state.items()}
        levels = [{**asdict(level), "outcome": level.outcome.name} for level in milestone.levels]
        notes = {"format": FORMAT, "key": json.dumps(self.key), "levels": json.dumps(levels)}
        with self.place.writing():
            io.write_bytes(self.path, save({**tensors, _RANDOM: torch.get_rng_state()}, notes))

    def _read(self) -> Milestone:
        from safetensors import safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                notes = file.metadata()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            key, levels = json.loads(notes["key"]), json.loads(notes["levels"])
            reports = tuple(_report(level) for level in levels)
        except Exception as error:  # a damaged file has many ways to say so
            raise ConfigError(
                f"--resume: '{self.path}' is damaged ({error}); leave out --resume to begin anew"
            ) from error
        if apart := _apart(key, self.key):
            raise ConfigError(
                f"--resume: the run that was stopped had {apart[0]}{_more(apart)}; give the same settings and images, "
                f"or leave out --resume to begin anew"
            )
        return Milestone(state, reports)


def _report(level: Mapping[str, Any]) -> LevelReport:
    return LevelReport(**{**level, "energies": tuple(level["energies"]), "outcome": Outcome[level["outcome"]]})


def _apart(then: Any, now: Any, name: str = "") -> list[str]:
    """Return what differs between two keys, each as ``name = then, not now``."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = [*then, *(key for key in now if key not in then)]
        found = [_apart(then.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in names]
        return [one for several in found for one in several]
    if then == now:
        return []
    if name.startswith("images."):
        return [f"another {name.removeprefix('images.')} image"]
    return [f"{name.removeprefix('settings.')} = {then}, and this one has {now}"]


def _more(apart: list[str]) -> str:
    return f" (and {len(apart) - 1} more differences)" if len(apart) > 1 else ""
