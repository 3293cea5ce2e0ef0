"""MONAI bundles: where they are, what they say, and the pieces that their configurations name.

``recipe`` and ``plan`` read bundles as data and load neither torch nor monai. ``workflow`` holds what a bundle's
``inference.json`` names in ``_target_``, and is loaded by MONAI alone.
"""

from mmtk.bundle.recipe import read_metadata, read_recipe, shipped_bundle
from mmtk.bundle.search import find_bundle

__all__ = ["find_bundle", "read_metadata", "read_recipe", "shipped_bundle"]
