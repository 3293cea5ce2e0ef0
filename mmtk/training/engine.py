"""Training on MONAI's engines: what they lack for our tasks, and one function that puts it together.

Several processes share an epoch where ``torchrun`` starts them (``WORLD_SIZE``, ``RANK``, ``LOCAL_RANK``): each sees its
part of the pairs, gradients are averaged, and the first validates and writes.

A run is a folder:

    model.pt          state of the network with the best validation so far
    last.pt           all that a stopped run needs to go on as if nothing had happened
    log.jsonl         one line an epoch
    tensorboard/      the same for TensorBoard, if it was asked for
    training.json     what was asked for, versions, device, and at the end the time it took

Every epoch is decided by the seed and its number: the order of the data, whatever is drawn, and the learning rate, which
may fall to 0 over the epochs, or by a factor where validation stays as it is. A run that is killed goes on from its last
epoch and ends, on a CPU, with the same bits. With a bound of the processor's time it cannot: where it ends, and a rate
that falls over that time, are the clock's.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmtk.errors import ConfigError
from mmtk.learned import Model
from mmtk.training.board import Board, check_tensorboard
from mmtk.training.config import TrainConfig
from mmtk.training.data import EpochSampler
from mmtk.training.plan import Plan, Progress, Status, Watch, ignore, silent
from mmtk.training.ranks import Ranks
from mmtk.training.task import MeanEnergy, Registering, Task

__all__ = ["MeanEnergy", "train"]


def train(
    model: Model | Task,
    plan: Plan,
    training: Dataset[Any],
    validation: Dataset[Any] | None,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    watch: Watch = ignore,
) -> dict[str, Any]:
    """Train a model and leave its weights in a folder.

    Args:
        model: Of a registration, or another task. Its weights are changed in place; they end as the last epoch's,
            ``model.pt`` has the best.
        training, validation: Sets of pairs, see :mod:`mmtk.training.data`, or of whatever the task takes.
        out: Folder of the run, new unless ``resume``.
        resume: Go on from the last epoch that ended, if there is one.
        facts: Recorded beside the plan; but for ``defaults``, which are what settings of ``config`` have by themselves.
        progress: Called after each step, on every process.
        watch: Called after each step and each epoch, on the first process alone.

    Returns:
        What ``training.json`` holds.

    Raises:
        ConfigError: If the run to be resumed was another one, a batch is larger than the set, or TensorBoard is asked
            for and not there.
        FloatingPointError: If the energy becomes NaN or infinite.
    """
    task = model if isinstance(model, Task) else Registering(model, plan.use_mask, plan.augment)
    state = _Run(task, plan, Path(out), torch.device(device), dict(facts or {}), progress, watch)
    return state.go(training, validation, resume)


class _Run:
    """One training run: engine, optimizer, files."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        out: Path,
        device: torch.device,
        facts: dict[str, Any],
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.task, self.model, self.plan, self.out, self.device = task, task.network, plan, out, device
        self.facts, self.progress, self.watch = facts, progress, watch
        self.ranks = Ranks.from_environment(device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        self.stalled = 0  # validations without a better one since the rate fell
        self.best, self.waited, self.epoch, self.spent, self.pairs = math.inf, 0, 0, 0.0, 0
        self.lines: list[dict[str, Any]] = []
        self._total, self._count = 0.0, 0

    # --- files

    def _write(self, name: str, value: Any) -> None:
        part = self.out / f".{name}.part"
        if name.endswith(".pt"):
            torch.save(value, part)
        else:
            part.write_text(value if isinstance(value, str) else json.dumps(value, indent=2), encoding="utf-8")
        os.replace(part, self.out / name)

    def _keep(self) -> None:
        last = {
            "network": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numbers": [self.best, self.waited, self.epoch, self.spent, self.pairs],
            "stalled": self.stalled,
            "log": json.dumps(self.lines),
            "asked": json.dumps(self._asked()),
        }
        self._write("last.pt", last)
        self._write("log.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines))

    def _go_on(self) -> None:
        path = self.out / "last.pt"
        if not path.is_file():
            return
        last = torch.load(path, map_location=self.device, weights_only=True)
        before, now = json.loads(last["asked"]), self._asked()
        # Of what a run begun by an earlier version does not name.
        new = {**_defaults(), **self.facts.get("defaults", {})}
        changed = sorted(
            name
            for name in before.keys() | now.keys()
            if before.get(name, new.get(name)) != now.get(name, new.get(name))
        )
        if changed:
            raise ConfigError(
                f"--out {self.out}: holds a training run with another {', '.join(changed)}; ask for the same, or "
                f"name another folder"
            )
        self.model.load_state_dict(last["network"])
        self.optimizer.load_state_dict(last["optimizer"])
        self.best, self.waited, self.epoch, self.spent, self.pairs = last["numbers"]
        self.stalled = last.get("stalled", 0)
        self.lines = json.loads(last["log"])

    def _asked(self) -> dict[str, Any]:
        """Return what a resumed run must not change.

        How long to train is free, unless the learning rate falls over that time; so is how many processes there are.
        """
        free = {"patience", "workers", "tensorboard"}
        if self.plan.decay != "cosine":
            free |= {"epochs", "cpu_minutes"}
        config = self.facts.get("config", {})
        asked = {**asdict(self.plan), **{key: config[key] for key in config}}
        plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in asked.items() if k not in free}))
        return plain

    # --- the run

    def _rate(self, engine: Engine, since: float) -> None:
        """Set the learning rate of the step that begins, which depends on what is done and on nothing before."""
        done = (engine.state.iteration - 1) / (self.plan.epochs * engine.state.epoch_length)
        if self.plan.cpu_minutes is not None:
            spent = self.spent + time.process_time() - since
            done = self.ranks.of_first(max(done, spent / (60 * self.plan.cpu_minutes)), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * cosine(done)

    def go(self, training: Dataset[Any], validation: Dataset[Any] | None, resume: bool) -> dict[str, Any]:
        if self.plan.decay not in ("none", "cosine", "plateau"):
            raise ConfigError(f"decay={self.plan.decay}: must be none, cosine or plateau")
        if self.plan.tensorboard:
            check_tensorboard()
        share = len(training) // self.ranks.count  # type: ignore[arg-type]
        if share < self.plan.batch_size:
            each = "" if self.ranks.count == 1 else " on each process"
            raise ConfigError(
                f"batch_size={self.plan.batch_size}: there are {share} pairs{each} to train on; give more pairs, or a "
                f"smaller batch"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        self.model.to(self.device)
        if resume:
            self._go_on()
        count = len(training)  # type: ignore[arg-type]
        sampler = EpochSampler(count, self.plan.seed, self.ranks.rank, self.ranks.count)
        loader = DataLoader(
            training, self.plan.batch_size, sampler=sampler, num_workers=self.plan.workers, drop_last=True
        )
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=self.plan.epochs,
            train_data_loader=loader,
            network=self.ranks.shared(self.model, self.device),
            optimizer=self.optimizer,
            loss_function=self.task.loss,
            prepare_batch=self.task.prepare_training or self.task.prepare,
            decollate=False,
            optim_set_to_none=True,
        )
        first = self.ranks.rank == 0
        evaluator = None if validation is None or not first else self._evaluator(validation)
        board = Board(self.out / "tensorboard", self.lines) if self.plan.tensorboard and first else None
        sums: dict[str, float] = {"energy": 0.0, "steps": 0}
        clock = [0.0]

        def begin(engine: Engine) -> None:
            sampler.set_epoch(engine.state.epoch - 1)
            torch.manual_seed(hash_of(self.plan.seed, engine.state.epoch))
            sums.update(energy=0.0, steps=0)
            clock[0] = time.process_time()

        def step(engine: Engine) -> None:
            energy = float(engine.state.output["loss"].detach())
            if not math.isfinite(energy):
                raise FloatingPointError(
                    f"the energy became {energy} in epoch {engine.state.epoch}; lower the learning rate, or raise lambda"
                )
            sums["energy"] += energy
            sums["steps"] += 1
            length = engine.state.epoch_length
            iteration = (engine.state.iteration - 1) % length + 1
            self.progress(engine.state.epoch, iteration, length, energy)
            if first:
                pairs = self.pairs + int(sums["steps"]) * self.plan.batch_size * self.ranks.count
                spent = self.spent + time.process_time() - clock[0]
                self.watch(self._status(engine, iteration, energy, pairs, spent))

        def end(engine: Engine) -> None:
            self.spent += time.process_time() - clock[0]
            self.epoch = engine.state.epoch
            self.pairs += int(sums["steps"]) * self.plan.batch_size * self.ranks.count
            line = {
                "epoch": self.epoch,
                "energy": sums["energy"] / max(sums["steps"], 1),
                "rate": self.optimizer.param_groups[0]["lr"],
                "pairs": self.pairs,
                "cpu_minutes": round(self.spent / 60, 3),
            }
            if evaluator is not None and self.epoch % self.plan.validate_every == 0:
                line["validation"] = self._validate(evaluator)
                line.update(self.task.means())
            self.lines.append(line)
            over = self.plan.cpu_minutes is not None and self.spent >= 60 * self.plan.cpu_minutes
            fell = self.plan.decay == "plateau" and line["rate"] < self.plan.least_rate
            if self.ranks.agreed(over or fell or 0 < self.plan.patience <= self.waited, self.device):
                engine.terminate()
            if first:
                if board is not None:
                    board.write(line)  # an epoch that is written but not kept is purged when the run goes on
                self._keep()
                length = engine.state.epoch_length
                self.watch(self._status(engine, length, line["energy"], self.pairs, self.spent, line))

        trainer.add_event_handler(Events.EPOCH_STARTED, begin)
        if self.plan.decay == "cosine":
            trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: self._rate(engine, clock[0]))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, end)
        if self.plan.clip > 0:
            from monai.engines.utils import IterationEvents

            trainer.add_event_handler(
                IterationEvents.BACKWARD_COMPLETED,
                lambda: nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip),
            )
        length = len(loader)
        trainer.state.epoch, trainer.state.iteration, trainer.state.epoch_length = (
            self.epoch,
            self.epoch * length,
            length,
        )
        done = self.plan.cpu_minutes is not None and self.spent >= 60 * self.plan.cpu_minutes
        try:
            if self.epoch < self.plan.epochs and not done:
                trainer.run()
        finally:
            if board is not None:
                board.close()
        if validation is None and first:
            self._write("model.pt", dict(self.task.kept()))
        record = {
            "plan": asdict(self.plan),
            **{name: value for name, value in self.facts.items() if name != "defaults"},
            "epochs": self.epoch,
            "pairs": self.pairs,
            "cpu_minutes": round(self.spent / 60, 2),
            "best_validation": None if validation is None else self.best,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": str(self.device),
            "processes": self.ranks.count,
            "torch": torch.__version__,
        }
        if first:
            self._write("training.json", record)
        return record

    def _status(
        self,
        engine: Engine,
        iteration: int,
        energy: float,
        pairs: int,
        spent: float,
        line: Mapping[str, Any] | None = None,
    ) -> Status:
        return Status(
            epoch=engine.state.epoch,
            epochs=self.plan.epochs,
            iteration=iteration,
            iterations=engine.state.epoch_length,
            energy=energy,
            pairs=pairs,
            minutes=spent / 60,
            budget=self.plan.cpu_minutes,
            best=self.best,
            line=line,
        )

    def _evaluator(self, validation: Dataset[Any]) -> SupervisedEvaluator:
        loader = DataLoader(validation, self.plan.batch_size, num_workers=self.plan.workers)
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=loader,
            network=self.model,
            prepare_batch=self.task.prepare,
            decollate=False,
        )
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._seen)
        return evaluator

    def _seen(self, engine: Engine) -> None:
        answer, batch = engine.state.output["pred"], engine.state.output["label"]
        costs = self.task.costs(answer, batch)
        self._total += float(costs.sum())
        self._count += len(costs)
        self.task.see(engine.state.batch, answer)

    def _validate(self, evaluator: SupervisedEvaluator) -> float:
        self._total, self._count = 0.0, 0
        self.task.forget()
        evaluator.run()
        energy = self._total / max(self._count, 1)
        if energy < self.best:
            self.best, self.waited, self.stalled = energy, 0, 0
            self._write("model.pt", dict(self.task.kept()))
        else:
            self.waited, self.stalled = self.waited + 1, self.stalled + 1
        if self.plan.decay == "plateau" and self.stalled * self.plan.validate_every > self.plan.plateau_epochs:
            self.stalled = 0
            for group in self.optimizer.param_groups:
                group["lr"] *= self.plan.plateau_factor
        return energy


def cosine(done: float) -> float:
    """Return the share of the learning rate that is left when a share of the training is done: 1 at 0, 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def _defaults() -> dict[str, Any]:
    fields = {name: field.default for name, field in TrainConfig.model_fields.items() if not field.is_required()}
    return {**fields, **asdict(Plan())}


def hash_of(*numbers: int) -> int:
    """Return one seed from several numbers."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
