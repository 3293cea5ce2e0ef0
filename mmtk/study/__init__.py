"""Comparative studies: methods on the same cases, honest statistics, one page.

methods    what is compared: a method or a bundle, each with its settings
cases      a pair of images each, with what is known of it: a lesion, labels, landmarks, the true deformation
run        one method on one case with one seed, in a process of its own

What a plugin that brings a benchmark needs is here: :class:`Benchmark`, :class:`Case`, :class:`Measure`,
:class:`Published`.
"""

from mmtk.study.benchmarks import Benchmark, Measure, Published
from mmtk.study.cases import Case

__all__ = ["Benchmark", "Case", "Measure", "Published"]
