"""The bundles ``kdnet_teacher`` and ``kdnet_student``: ``python -m benchmarks.kdnet --runs DIR --write``.

The teacher is trained first, then a student for T1 and one for T1ce, on synthetic heads with lobed lesions; all are
scored on 20 heads with grown ones. What is there is not trained again. ``--write`` makes the bundles of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import store

NETWORKS: dict[str, dict[str, Any]] = {
    "teacher": {"modalities": ("t1", "t1ce", "t2", "flair"), "strategy": "baseline"},
    "t1": {"modalities": ("t1",), "strategy": "kl_kd", "warm": True, "patch": (40, 40, 40)},
    "t1ce": {"modalities": ("t1ce",), "strategy": "kl_kd", "warm": True, "patch": (40, 40, 40)},
}
COMMON: dict[str, Any] = {
    "options": {"spacing": 3.0},
    "patch": (48, 48, 48),
    "count": 96,
    "held_out": 8,
    "widths": (8, 16, 32, 64),
    "half": True,
    "rate": 2e-3,
    "decay": "cosine",
    "batch_size": 2,
    "validate_every": 3,
}
#: Heads of the other generator, and of the training's own.
TEST, OWN = 20, 8


def train(name: str, runs: Path, cache: Path, epochs: int) -> None:
    """Train a network, if it is not trained, or go on."""
    from mmtk_kd.plugin import DistillationConfig
    from mmtk_kd.training import run

    teacher = {} if name == "teacher" else {"teacher": str(runs / "teacher" / "model.safetensors")}
    settings = {**COMMON, **NETWORKS[name], **teacher, "epochs": epochs, "cache": cache}
    run(DistillationConfig(**settings), runs / name, resume=True)


def judged(name: str, runs: Path, cache: Path) -> dict[str, Any]:
    """Return the scores of a network on heads with grown lesions, and on others with lobed ones."""
    from mmtk_kd.data import MODALITIES, SyntheticHeads
    from mmtk_kd.scoring import judge
    from mmtk_kd.training import load_network

    network, weights = load_network(runs / name / "model.safetensors")
    seen = [MODALITIES.index(m) for m in weights.modalities]
    line: dict[str, Any] = {"method": f"bundle-{name}", "subject": "gliomas"}
    for lesion, count, seed in (("grown", TEST, 1000), ("lobed", OWN, 1001)):
        heads = SyntheticHeads({**COMMON["options"], "lesion": lesion}, count=count, seed=seed, cache=cache)
        scores = judge(network, weights, heads, seen, True)
        line[lesion] = {key: round(float(np.mean([s[key] for s in scores])), 3) for key in scores[0]}
    facts = weights.facts
    line.update({key: facts[key] for key in ("epochs", "pairs", "cpu_minutes", "parameters")})
    return line


_REFERENCES = [
    "M. Maillard: Towards the generation of glioblastoma atlases with deep learning methods: tumor segmentation and "
    "metamorphic image registration. Thesis, Institut Polytechnique de Paris, 2023",
    "M. Hu, M. Maillard, Y. Zhang, T. Ciceri, G. La Barbera, I. Bloch, P. Gori: Knowledge distillation from multi-modal "
    "to mono-modal segmentation networks. MICCAI 2020",
]

_CARD = """\
# {title}

{what}
**Trained on synthetic heads alone**: it has seen one bent anatomy and caricatures of gliomas. Expect it to be far worse
on patients than its scores here.

## Model

nnU-Net's architecture with three down-samplings ({widths} channels, {parameters:,} parameters), softmax over healthy
tissue, necrotic core, edema and enhancing tumor; ET, TC and WT are sums of its probabilities.
{how}

## Run it

{run}

## Weights

{count} heads of `mmtk sample gliomas lesion=lobed` at 3 mm, patches of {side}^3, {epochs} epochs, {minutes} of one
processor core, convolutions in bfloat16, Adam 2e-3 with a cosine: **under-trained** beside the thesis's 1000 epochs.
Weights are kept in half precision.

{table}

Means over {test} heads of `lesion=grown`, a generator that shares nothing with the one trained on but the anatomy, and
over {own} of the training's generator with another seed. Hausdorff: the largest distance between surfaces.
`python -m benchmarks.kdnet` makes weights and numbers again.

## Limits

{limits}

## References

{references}
"""


def table(lines: Mapping[str, Mapping[str, Any]], names: list[str]) -> str:
    """Return the scores of some networks as a table."""
    rows = [
        "| weights | heads | Dice ET, % | TC | WT | Hausdorff ET, mm | TC | WT |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    titles = {"teacher": "four modalities", "t1": "T1", "t1ce": "T1ce"}
    for name in names:
        for lesion in ("grown", "lobed"):
            v = lines[name][lesion]
            cells = [f"{100 * v[f'dice_{r}']:.1f}" for r in ("et", "tc", "wt")]
            cells += [f"{v[f'hausdorff_{r}']:.1f}" for r in ("et", "tc", "wt")]
            rows.append(f"| {titles[name]} | {lesion} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def write(runs: Path, bundles: Path, results: Path, asked: Sequence[str] = tuple(NETWORKS)) -> None:
    """Write the bundles of those networks that were asked for, trained and scored."""
    from mmtk.bundle.segmentation import write_bundle
    from mmtk.segmenters.weights import SegmenterWeights

    lines = {
        line["method"].removeprefix("bundle-"): line
        for line in store.newest("distillation", results)
        if line["method"].startswith("bundle-")
    }
    license_text = (bundles / "voxelmorph" / "LICENSE").read_text(encoding="utf-8")
    for folder, name, others in (("kdnet_teacher", "teacher", []), ("kdnet_student", "t1", ["t1ce"])):
        if name not in asked:
            continue
        more = [other for other in others if other in lines]
        weights = SegmenterWeights.load(runs / name / "model.safetensors")
        card = _card(folder, name, [name, *more], lines)
        teacher = folder == "kdnet_teacher"
        write_bundle(
            bundles / folder,
            weights,
            task="Segmentation of gliomas from four modalities"
            if teacher
            else "Segmentation of gliomas from T1 or T1ce",
            description=(
                "Teacher of KD-Net: a U-Net on T1, T1ce, T2 and FLAIR; trained on synthetic heads alone."
                if teacher
                else "KD-Net: a U-Net on one modality, taught by one on four; trained on synthetic heads alone."
            ),
            data_source="synthetic: mmtk sample gliomas (the ICBM 2009a template with made-up lesions)",
            intended_use="Research: a start for training, a first guess of a mask; not for clinical decisions.",
            references=_REFERENCES,
            card=card,
            license_text=license_text,
        )
        for variant in more:
            other = SegmenterWeights.load(runs / variant / "model.safetensors")
            other.save(bundles / folder / "models" / f"{variant}.safetensors")
        said = {
            "kind": "distillation",
            **_plain({**COMMON, **NETWORKS[name], "epochs": int(lines[name]["epochs"])}),
        }
        if not teacher:
            said["teacher"] = "kdnet_teacher"
        for file, content in (("train.json", _train(said)), ("multi_gpu_train.json", _MULTI_GPU)):
            text = json.dumps(content, indent=4) + "\n"
            (bundles / folder / "configs" / file).write_text(text, encoding="utf-8")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _card(folder: str, name: str, names: list[str], lines: Mapping[str, Mapping[str, Any]]) -> str:
    teacher = folder == "kdnet_teacher"
    line = lines[name]
    minutes = " and ".join(f"{lines[n]['cpu_minutes']:.1f}" for n in names) + " minutes"
    if teacher:
        run = (
            "    mmtk segment bundle=kdnet_teacher t1=t1.nii.gz t1ce=t1ce.nii.gz t2=t2.nii.gz flair=flair.nii.gz "
            "out=mask.nii.gz\n"
            "    mmtk train task=distillation modalities=t1 teacher=kdnet_teacher widths=8,16,32,64 --out student\n\n"
            "or, without mmtk's command and with the same result,\n\n"
            "    python -m monai.bundle run --config_file configs/inference.json \\\n"
            "        --t1 t1.nii.gz --t1ce t1ce.nii.gz --t2 t2.nii.gz --flair flair.nii.gz --output_dir result"
        )
        what = (
            "The teacher of KD-Net: it segments a glioma from T1, T1ce, T2 and FLAIR, and teaches students\n"
            "that see one of them."
        )
        how = "The loss is Dice and cross-entropy."
    else:
        run = (
            "    mmtk segment bundle=kdnet_student image=t1.nii.gz out=mask.nii.gz        # from a T1\n"
            "    mmtk segment bundle=kdnet_student segmenter.weights=kdnet_student:t1ce image=t1ce.nii.gz "
            "out=mask.nii.gz\n"
            "    mmtk train bundle=kdnet_student teacher=kdnet_teacher data=BraTS --out student"
        )
        what = (
            "KD-Net's student: it segments a glioma from one modality, T1 (`models/model.safetensors`) or T1ce\n"
            "(`models/t1ce.safetensors`), and was taught by `kdnet_teacher`, which sees four."
        )
        how = (
            "The loss is the thesis's equation 3.8: Dice and cross-entropy with the reference, soft targets of the\n"
            "teacher (lambda 0.5, T 3), and the divergence of the bottlenecks (alpha 1). It began from the teacher's\n"
            "weights."
        )
    limits = (
        "- Skull-stripped heads, at 3 mm: finer scans are averaged, and what it finds is no finer.\n"
        "- It looks for one kind of lesion. Strokes, cavities, metastases and children it has never seen.\n"
        f"- One real patient was at hand (TCGA-LGG, a glioma without enhancement): {_real(folder)}\n"
        "- For research; not for clinical decisions."
    )
    return _CARD.format(
        title="KD-Net, teacher" if teacher else "KD-Net, student",
        what=what,
        how=how,
        run=run,
        widths=", ".join(map(str, COMMON["widths"])),
        parameters=line["parameters"],
        count=COMMON["count"],
        epochs=line["epochs"],
        side={**COMMON, **NETWORKS[name]}["patch"][0],
        minutes=minutes,
        table=table(lines, names),
        test=TEST,
        own=OWN,
        limits=limits,
        references="\n".join(f"- {r}." for r in _REFERENCES),
    )


def _real(bundle: str, results: Path = store.RESULTS) -> str:
    """Return what a bundle found in the real patient, in words."""
    found = {line["method"]: line for line in store.newest("distillation", results)}
    line = found.get(f"real-{bundle}")
    if line is None:
        return "it has not been tried there."
    v = line["values"]["seg"]
    verdict = "**it fails there**" if v["dice_wt"] < 0.5 else "there"
    return f"{verdict}, Dice {100 * v['dice_wt']:.0f} % for WT and {100 * v['dice_tc']:.0f} % for TC."


def _train(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``train.json``: the description, and MONAI's engines around what it comes to."""
    return {
        "imports": ["$import monai"],
        "bundle_root": ".",
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/training'",
        "seed": 0,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "count": said["count"],
        "held_out": said["held_out"],
        "teacher": said.get("teacher"),
        "batch_size": said["batch_size"],
        "learning_rate": said["rate"],
        "max_epochs": said["epochs"],
        "val_interval": 1,
        "cache": None,
        "training": dict(said),
        "lesson": {
            "_target_": "mmtk_kd.workflow.Lesson",
            "training": "@training",
            "seed": "@seed",
            "count": "@count",
            "held_out": "@held_out",
            "teacher": "@teacher",
            "cache": "@cache",
        },
        "network_def": "$@lesson.network",
        "network": "$@network_def.to(@device)",
        "loss": "$@lesson.loss",
        "optimizer": {
            "_target_": "torch.optim.Adam",
            "params": "$[p for p in @network.parameters() if p.requires_grad]",
            "lr": "@learning_rate",
        },
        "train": {
            "dataset": "$@lesson.patches",
            "sampler": {"_target_": "mmtk.training.data.EpochSampler", "count": "@count", "seed": "@seed"},
            "dataloader": {
                "_target_": "torch.utils.data.DataLoader",
                "dataset": "@train::dataset",
                "batch_size": "@batch_size",
                "sampler": "@train::sampler",
                "num_workers": 0,
                "drop_last": True,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "handlers": [
                {"_target_": "mmtk.training.workflow.EpochOrder", "sampler": "@train::sampler"},
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate::evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                {
                    "_target_": "StatsHandler",
                    "tag_name": "loss",
                    "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
                    "iteration_log": False,
                },
                {"_target_": "mmtk_kd.workflow.WriteSegmenter", "lesson": "@lesson", "folder": "@output_dir"},
            ],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "max_epochs": "@max_epochs",
                "device": "@device",
                "train_data_loader": "@train::dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train::inferer",
                "prepare_batch": "$@lesson.prepare",
                "train_handlers": "@train::handlers",
                "decollate": False,
                "amp": False,
            },
        },
        "validate": {
            "dataset": "$@lesson.held_out_patches",
            "dataloader": {
                "_target_": "torch.utils.data.DataLoader",
                "dataset": "@validate::dataset",
                "batch_size": "@batch_size",
                "num_workers": 0,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "key_metric": {"ground_truth": {"_target_": "mmtk_kd.workflow.GroundTruthMetric"}},
            "handlers": [
                {"_target_": "StatsHandler", "iteration_log": False},
                {
                    "_target_": "CheckpointSaver",
                    "save_dir": "@output_dir",
                    "save_dict": {"model": "@network"},
                    "save_key_metric": True,
                    "key_metric_filename": "model.pt",
                },
            ],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate::dataloader",
                "network": "@network",
                "inferer": "@validate::inferer",
                "prepare_batch": "$@lesson.prepare",
                "key_val_metric": "@validate::key_metric",
                "val_handlers": "@validate::handlers",
                "decollate": False,
                "amp": False,
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@train::trainer.run()"],
    }


_MULTI_GPU: dict[str, Any] = {
    "imports": ["$import monai", "$import os", "$import torch.distributed as dist"],
    "device": "$torch.device('cuda', int(os.environ['LOCAL_RANK'])) if torch.cuda.is_available() "
    "else torch.device('cpu')",
    "network": "$torch.nn.parallel.DistributedDataParallel(@network_def.to(@device), "
    "device_ids=[@device] if torch.cuda.is_available() else None)",
    "train::sampler": {
        "_target_": "mmtk.training.data.EpochSampler",
        "count": "@count",
        "seed": "@seed",
        "rank": "$int(os.environ['RANK'])",
        "ranks": "$int(os.environ['WORLD_SIZE'])",
    },
    "train::handlers": "$@rank0_handlers if int(os.environ['RANK']) == 0 else @train_order",
    "train_order": [{"_target_": "mmtk.training.workflow.EpochOrder", "sampler": "@train::sampler"}],
    "rank0_handlers": [
        {"_target_": "mmtk.training.workflow.EpochOrder", "sampler": "@train::sampler"},
        {
            "_target_": "ValidationHandler",
            "validator": "@validate::evaluator",
            "epoch_level": True,
            "interval": "@val_interval",
        },
        {"_target_": "mmtk_kd.workflow.WriteSegmenter", "lesson": "@lesson", "folder": "@output_dir"},
    ],
    "validate::evaluator::network": "@network_def",
    "validate::handlers": [
        {
            "_target_": "CheckpointSaver",
            "save_dir": "@output_dir",
            "save_dict": {"model": "@network_def"},
            "save_key_metric": True,
            "key_metric_filename": "model.pt",
        }
    ],
    "initialize": [
        "$dist.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
        "$monai.utils.set_determinism(seed=@seed)",
    ],
    "run": ["$@train::trainer.run()"],
    "finalize": ["$dist.is_initialized() and dist.destroy_process_group()"],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kdnet", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder for the training runs")
    parser.add_argument("--cache", type=Path, help="folder that keeps heads; RUNS/heads")
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), help="teacher, t1, t1ce")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="write the bundles")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--bundles", type=Path, default=Path(__file__).resolve().parent.parent / "bundles")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    cache = asked.cache or asked.runs / "heads"
    scored = {line["method"] for line in store.rows("distillation", asked.results)}
    for name in asked.only:
        train(name, asked.runs, cache, asked.epochs)
        if f"bundle-{name}" not in scored:
            line = judged(name, asked.runs, cache)
            store.append("distillation", line, asked.results)
            print(json.dumps(line), flush=True)
    if asked.write:
        write(asked.runs, asked.bundles, asked.results, asked.only)


if __name__ == "__main__":
    main()
