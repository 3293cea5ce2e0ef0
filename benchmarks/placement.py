"""What the start of a registration is worth: pairs of people from every `init`, and under every intensity scale.

    python -m benchmarks.placement --data DIR [--pairs 3]

DIR is the folder that holds `brains_2mm`. Mean Dice over all labels, and CPU seconds of the call.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

PAIRS = (("132", "162"), ("206", "212"), ("213", "239"))
RUNS = (
    {"init": "none"}, {"init": "center"}, {"init": "rigid"}, {"init": "affine"},
    {"normalize": "histogram"}, {"normalize": "none"},
    {"similarity": "ssd"}, {"similarity": "ssd", "normalize": "histogram"}, {"similarity": "ssd", "normalize": "none"},
)  # fmt: skip


def main() -> None:
    import mmtk

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of brains_2mm")
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    asked = parser.parse_args()
    print("| settings | mean Dice | CPU s |\n|---|---:|---:|")
    for settings in RUNS:
        after, seconds = [], []
        for moving, fixed in PAIRS[: asked.pairs]:
            paths = [
                asked.data / "brains_2mm" / f"ixi{who}_{what}.nii.gz"
                for who in (moving, fixed)
                for what in ("t1", "labels")
            ]
            begin = time.process_time()
            found = mmtk.register(
                moving=paths[0], labels=paths[1], fixed=paths[2], fixed_labels=paths[3], device="cpu", **settings
            )
            seconds.append(time.process_time() - begin)

            after.append(found.metrics["overlap"]["dice_mean"])
        name = " ".join(f"{key}={value}" for key, value in settings.items())
        n = len(after)
        print(f"| `{name}` | {sum(after) / n:.3f} | {sum(seconds) / n:.0f} |", flush=True)


if __name__ == "__main__":
    main()
