"""What others have published on the same data sets: rows to hold one's own against."""

from __future__ import annotations

from mmtk.study.benchmarks import Published

__all__ = ["BRATS_REG", "BRATS_TEMPLATE", "CARDIAC"]

CARDIAC = (
    Published(
        "Learned structured deformations, cardiac cine MRI",
        "J. Krebs et al., abstract",
        "Mean over the structures of 330 other examinations, of whole hearts: a rough guide, no comparison.",
        ("Dice", "Hausdorff distance, mm"),
        (("Krebs, CVAE", "0.783", "7.9"),),
    ),
)

BRATS_REG = (
    Published(
        "BraTS-Reg 2022, training set: ANTs",
        "errors of each pair, published by the ANTs team; the statistics are ours, over 140 pairs",
        "The value of a pair is its mean landmark error, mm: compare with the column of means, not with that of "
        "medians, by which the challenge ranks.",
        ("sequence", "mean", "median", "90th percentile", "pairs improved", "s a pair"),
        (
            ("none", "", "5.99", "3.90", "–", "–", "–"),
            ("affine (Quick)", "t1ce", "3.81", "3.18", "6.63", "80.0 %", "5"),
            ("SyNQuick (MI)", "t1ce", "3.54", "2.83", "5.92", "86.4 %", "25"),
            ("SyN (CC, radius 2)", "t1ce", "2.45", "1.94", "4.13", "92.9 %", "169"),
            ("SyN (CC, radius 2)", "t1ce + flair", "2.46", "2.00", "4.16", "93.6 %", "273"),
            ("SyN (CC, radius 2)", "t1ce + t2", "2.37", "1.91", "3.60", "90.7 %", "272"),
            ("SyN (CC, radius 2)", "t1", "2.84", "2.21", "4.80", "86 %", "169"),
            ("SyN (CC, radius 2)", "t2", "2.74", "2.20", "4.43", "84 %", "169"),
            ("SyN (CC, radius 2)", "flair", "3.25", "2.44", "5.68", "79 %", "169"),
            ("SyN (CC, radius 4)", "t1ce", "2.67", "1.99", "4.71", "90.0 %", "347"),
            ("B-spline SyN", "t1ce", "2.53", "1.89", "3.88", "92.1 %", "273"),
            ("B-spline SyN", "t1ce + t2", "2.27", "1.84", "3.53", "91.4 %", "381"),
        ),
    ),
    Published(
        "Table 5.4: BraTS-Reg",
        "M. Maillard, thesis, 2023",
        "Mean (standard deviation) over the validation pairs, mm; lesions were masked by a segmentation network.",
        ("median error", "mean error", "robustness", "folds"),
        (
            ("before", "7.8 (5.6)", "8.41 (5.5)", "0 (0)", "–"),
            ("Rigid", "5.2 (3.3)", "6.03 (3.3)", "0.65 (0.32)", "0 (0)"),
            ("SyN", "4.6 (2.7)", "5.4 (2.9)", "0.71 (0.29)", "0 (0)"),
            ("VoxelMorph", "4.9 (3.3)", "5.8 (3.3)", "0.71 (0.27)", "50.9 (227)"),
            ("Rigid-CFM", "4.7 (2.7)", "5.6 (2.8)", "0.66 (0.32)", "0 (0)"),
            ("SyN-CFM", "4.5 (2.7)", "5.4 (2.9)", "0.70 (0.3)", "0 (0)"),
            ("VoxelMorph-CFM", "4.8 (3.2)", "5.8 (3.3)", "0.71 (0.28)", "36.3 (162)"),
            ("MetaMorph-R", "2.8 (0.81)", "3.8 (1.5)", "0.78 (0.24)", "2.7 (9.0)"),
        ),
    ),
)

BRATS_TEMPLATE = (
    Published(
        "Table 5.3: BraTS 2021 onto SRI24",
        "M. Maillard, thesis, 2023",
        "Mean (standard deviation). Ventricles segmented by hand, L2 divided by 10⁴; another template and other "
        "patients than yours: orderings may be compared, figures may not.",
        ("Dice, %", "L2", "L2 without the tumor", "folds"),
        (
            ("Rigid", "43.9 (12.3)", "8.1 (1.0)", "7.4 (0.9)", "0 (0)"),
            ("SyN", "55.7 (12.9)", "5.5 (1.0)", "4.9 (0.8)", "0 (0)"),
            ("VoxelMorph", "65.5 (7.2)", "4.4 (0.8)", "3.3 (0.6)", "4427 (1821)"),
            ("Rigid-CFM", "43.9 (12.3)", "8.1 (1.1)", "7.5 (0.9)", "0 (0)"),
            ("SyN-CFM", "56.4 (12.8)", "5.5 (1.0)", "4.9 (0.9)", "0 (0)"),
            ("VoxelMorph-CFM", "61.5 (8.1)", "4.9 (1.0)", "3.4 (0.6)", "3423 (1733)"),
            ("Metamorphosis", "70.3 (5.3)", "4.2 (0.6)", "3.9 (0.6)", "0 (0)"),
            ("MetaMorph-G", "65.32 (6.25)", "5.1 (0.7)", "4.9 (0.7)", "283 (666)"),
            ("MetaMorph-R", "69.2 (6.7)", "3.4 (0.57)", "3.1 (0.55)", "366 (594)"),
        ),
    ),
)
