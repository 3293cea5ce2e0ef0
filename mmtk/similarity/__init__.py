"""How ill two images match: one family a file, all with a weight that reaches their windows and bins."""

from mmtk.similarity.base import Reduction, Similarity, reduce
from mmtk.similarity.channels import ChannelSimilarity
from mmtk.similarity.correlation import LocalCorrelation, NormalizedCrossCorrelation
from mmtk.similarity.information import MutualInformation
from mmtk.similarity.ratio import IntensityRatioVariance
from mmtk.similarity.squares import LocalSquaredDifference, SquaredDifference

__all__ = [
    "ChannelSimilarity", "IntensityRatioVariance", "LocalCorrelation", "LocalSquaredDifference",
    "MutualInformation", "NormalizedCrossCorrelation", "Reduction", "Similarity", "SquaredDifference", "reduce",
]  # fmt: skip
