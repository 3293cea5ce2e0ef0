"""Thesis table 5.1 again: what learned registration of one volume costs, in time and in memory.

    python -m benchmarks.learned [--size 192 192 144] [--rows 'r-*'] [--device cpu]

Every row is one pair in a process of its own: one pass (inference), or one step of training with its backward pass. On a
CPU memory is the peak of the whole process, Python and torch in it (about 0.5 GB); on a GPU, what torch allocated. What
is in the images changes neither, so these are smoothed noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.measure import environment, measure

__all__ = ["ROWS", "render"]

#: Rows: the network, what of it, and the thesis's time and memory (A100, 192 x 192 x 144).
ROWS: dict[str, tuple[str, str, str, str]] = {
    "r-inference": ("MetaMorph-R", "one pass", "<1 s", "10"),
    "r-training": ("MetaMorph-R", "one step of training", "24 h in all", "30"),
    "g-inference": ("MetaMorph-G", "one pass", "", ""),
    "g-training": ("MetaMorph-G", "one step of training", "", ""),
    "vm-inference": ("VoxelMorph", "one pass", "0.1 s", "4"),
    "vm-training": ("VoxelMorph", "one step of training", "16 h in all", "13"),
}


def work(row: str, shape: tuple[int, ...], steps: int, device: str) -> None:
    """Do what a row says, once, and print what it took as JSON."""
    import time

    import torch

    from mmtk.fields import Gaussian, Grid, Smoother
    from mmtk.integrators import Lagrangian
    from mmtk.learned import Batch, Model
    from mmtk.similarity import SquaredDifference
    from mmtk_metamorph.networks import MetaMorphG, MetaMorphR
    from mmtk_voxelmorph.network import VoxelMorph

    torch.manual_seed(0)
    grid = Grid(shape, (1.0,) * len(shape))
    squares = SquaredDifference(reduction="none")
    name, what = row.split("-")
    model: Model
    if name == "vm":
        model = VoxelMorph(grid, similarity=squares, half=True)
    else:
        energy: dict[str, Any] = {"sigma": (8.0,), "lam": 1e-7, "mu": 0.1, "steps": steps, "similarity": squares}
        if name == "g":
            model = MetaMorphG(grid, integrator=Lagrangian(), half=True, **energy)
        else:
            model = MetaMorphR(grid, hidden=60, half=True, **energy)  # the thesis's 1.5 million parameters
    model.to(device)
    blur = Smoother(Gaussian(4.0), grid)
    moving, fixed = (t / t.abs().max() for t in blur(torch.randn(1, 2, *shape)).split(1, 1))
    mask = (blur(torch.randn(1, 1, *shape)) > 0.01).float()
    batch = Batch(moving, fixed, mask).to(device)
    del blur, moving, fixed, mask

    def once() -> None:
        if what == "training":
            model.train()
            model(batch).energy.sum().backward()
        else:
            model.eval()
            with torch.no_grad():
                model(batch, maps=True)
        if device != "cpu":
            torch.cuda.synchronize()

    if device != "cpu":
        once()  # kernels are chosen in the first pass
        torch.cuda.reset_peak_memory_stats()
    begin, spent = time.perf_counter(), time.process_time()
    once()
    told = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - spent}
    told["parameters"] = sum(p.numel() for p in model.parameters())
    if device != "cpu":
        told["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps(told))


_TABLE = """\
Table 5.1 of Maillard's thesis again: one pair of {size}, T = {steps}, networks of the thesis's size (MetaMorph-R has
{count} parameters with its first momentum), convolutions in bfloat16, images and maps in float32, every time step
computed twice in training. Memory on a CPU is the peak of the whole process, {threads} thread. The thesis is from an
A100."""


def render(results: Path = store.RESULTS) -> str:
    """Return the table for docs/benchmarks.md."""
    found = store.newest("learned", results)
    if not found:
        return "Not run yet.\n"
    first = next((line for line in found if line["method"].startswith("r-")), found[0])
    size = " x ".join(str(n) for n in first["shape"])
    told = {
        "size": size,
        "steps": first["steps"],
        "count": f"{first['parameters']:,}",
        "threads": first["threads"],
    }
    lines = [
        *_TABLE.format(**told).splitlines(),
        "",
        "| network | what | on | seconds | CPU s | memory, GB | thesis: time | memory, GB |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, (network, what, time, memory) in ROWS.items():
        for line in found:
            if line["method"] != name:
                continue
            gigabytes = line.get("gpu_gb", line["rss_mb"] * 2**20 / 1e9)
            lines.append(
                f"| {network} | {what} | {line['subject']} | {line['wall']:.1f} | {line['cpu']:.0f} | {gigabytes:.2f} "
                f"| {time} | {memory} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned", description=__doc__)
    parser.add_argument("--rows", nargs="*", default=["*"], help=f"names or patterns of {', '.join(ROWS)}")
    parser.add_argument("--size", type=int, nargs="*", default=[192, 192, 144])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, tuple(asked.size), asked.steps, asked.device)
        return
    for row in (name for name in ROWS if any(fnmatch(name, pattern) for pattern in asked.rows)):
        command = [sys.executable, "-m", "benchmarks.learned", "--work", row, "--device", asked.device]
        command += ["--steps", str(asked.steps), "--size", *map(str, asked.size)]
        with tempfile.TemporaryDirectory() as place:
            log = Path(place) / "log"
            env = environment(asked.threads)
            if asked.device != "cpu":
                env.pop("CUDA_VISIBLE_DEVICES")
            usage = measure(command, log=log, limit=7200, env=env)
            said = log.read_text().strip().splitlines()
        if usage.status != "ok":
            print(row, usage.status, *said[-5:], sep="\n")
            continue
        line = {"method": row, "subject": asked.device, "shape": asked.size, "steps": asked.steps}
        line |= {"threads": asked.threads, "rss_mb": usage.rss_mb, **json.loads(said[-1])}
        store.append("learned", line, asked.results)
        print(row, {k: line[k] for k in ("wall", "cpu", "rss_mb", "parameters")}, flush=True)


if __name__ == "__main__":
    main()
