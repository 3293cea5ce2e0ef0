"""Learned registration: models, their weights, and the method that runs them."""

from mmtk.learned.backbone import Backbone
from mmtk.learned.method import Frame, LearnedMethod, learned_method, part
from mmtk.learned.model import Batch, Model, Prediction
from mmtk.learned.refine import refine
from mmtk.learned.weights import Weights, find_weights

__all__ = [
    "Backbone",
    "Batch",
    "Frame",
    "LearnedMethod",
    "Model",
    "Prediction",
    "Weights",
    "find_weights",
    "learned_method",
    "part",
    "refine",
]
