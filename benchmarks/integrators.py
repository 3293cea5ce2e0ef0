"""What one evaluation of a shooting costs by each integrator: the energy and its gradient by the initial momentum.

    python -m benchmarks.integrators [--size 96] [--steps 15]

Each scheme runs in processes of its own with one thread. CPU seconds are those of the evaluation alone, the median of
three. Memory is the peak of a process less what it held before the first evaluation, with every large block returned
when it is freed (MALLOC_MMAP_THRESHOLD_, which costs time: so memory and time are taken from different processes); the
allocator's own holes may double it. The kernel is 8 mm wide on 1 mm voxels, so that velocities live on nodes 4 mm apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

SCHEMES = ("eulerian", "semi_lagrangian", "sharp", "lagrangian", "particles")


def evaluate(scheme: str, size: int, steps: int, checkpoint: bool) -> dict[str, float]:
    """Measure one scheme in this process."""
    import torch

    from mmtk.equations import Metamorphosis
    from mmtk.fields import Gaussian, Grid, Smoother
    from mmtk.integrators import Context, Eulerian, Lagrangian, Particles, SemiLagrangian, Sharp
    from mmtk.shooting import shoot_energy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    classes = dict(zip(SCHEMES, (Eulerian, SemiLagrangian, Sharp, Lagrangian, Particles), strict=True))
    grid = Grid((size,) * 3, (1.0,) * 3)
    blur = Smoother(Gaussian(3.0), grid)
    image, fixed = (t / t.abs().max() for t in blur(torch.randn(1, 2, *grid.shape)).split(1, 1))
    mask = (blur(torch.randn(1, 1, *grid.shape)) > 0.02).float()
    momentum = (3.0 * (fixed - image)).requires_grad_()
    equation = Metamorphosis.from_kernel(Gaussian(8.0), grid, 0.1, stride=4.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        end = shoot_energy(
            equation, classes[scheme](), image, momentum, steps, Context(mask=mask), checkpoint=checkpoint
        )
        energy = (end.image - fixed).square().sum() + 1e-7 * end.energy
        torch.autograd.grad(energy, momentum)
        seconds.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "megabytes": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--one", help="measure this scheme here; for internal use")
    parser.add_argument("--store", action="store_true", help="keep every step for the backward pass")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(evaluate(chosen.one, chosen.size, chosen.steps, not chosen.store)))
        return
    print("| integrator | CPU s | MB, steps recomputed | MB, steps stored |\n|---|---:|---:|---:|")
    for scheme in SCHEMES:
        line = [sys.executable, "-m", "benchmarks.integrators", "--one", scheme]
        line += ["--size", str(chosen.size), "--steps", str(chosen.steps)]
        seconds = _measured(line, {})["seconds"]
        memory = [_measured([*line, *more], {"MALLOC_MMAP_THRESHOLD_": "65536"}) for more in ([], ["--store"])]
        recomputed, stored = (m["megabytes"] for m in memory)
        print(f"| `{scheme}` | {seconds:.1f} | {recomputed:.0f} | {stored:.0f} |", flush=True)


def _measured(line: list[str], more: dict[str, str]) -> dict[str, float]:
    return json.loads(subprocess.check_output(line, env={**os.environ, **more}))


if __name__ == "__main__":
    main()
