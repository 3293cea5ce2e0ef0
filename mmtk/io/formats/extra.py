"""The optional library behind some formats."""

from __future__ import annotations

import warnings
from typing import Any

from mmtk.io.formats.request import Request

__all__ = ["nitransforms"]


def nitransforms(request: Request, module: str) -> Any:
    """Return a module of nitransforms.

    Raises:
        InputError: If it is not installed.
    """
    from importlib import import_module

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(f"nitransforms.{module}")
    except ImportError:
        request.refuse("this needs nitransforms, which is not installed; install it by `pip install 'mmtk[io]'`")
