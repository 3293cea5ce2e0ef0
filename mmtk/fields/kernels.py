"""Smoothing kernels, told in millimeters and applied by their spectra.

A kernel is a positive function of frequency (cycles per mm along each axis), 1 at frequency 0 for a kernel of
unit sum. Applying ``K`` multiplies the spectrum by it, applying ``K^(1/2)`` by its root: both are self-adjoint
whatever the spacing, and the second turns white coefficients ``w`` into a velocity ``v = K^(1/2) w`` whose norm
in V is the plain sum of squares of ``w``.

    v, w   (B, C, *space)    any number of channels, each smoothed alone
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmtk.fields.grid import Grid

__all__ = ["Gaussian", "Kernel", "Smoother", "Sobolev", "Sum", "fast_length"]


class Kernel(ABC):
    """A translation-invariant, positive definite kernel."""

    @abstractmethod
    def spectrum(self, frequencies: Sequence[Tensor]) -> Tensor:
        """Return the transfer function; ``frequencies`` are cycles per mm, one broadcastable tensor an axis."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """Distance in mm beyond which the kernel is of no account (three standard deviations)."""

    @property
    @abstractmethod
    def finest(self) -> float:
        """The shortest width in mm that the kernel knows: it says how fine a control grid has to be."""


@dataclass(frozen=True)
class Gaussian(Kernel):
    """A Gaussian of unit sum.

    Args:
        sigma: Standard deviation in mm, one number or one for each axis. 0 leaves that axis alone.
    """

    sigma: float | tuple[float, ...]

    def spectrum(self, frequencies: Sequence[Tensor]) -> Tensor:
        widths = self._widths(len(frequencies))
        exponent = sum(-2 * (math.pi * s * f) ** 2 for s, f in zip(widths, frequencies, strict=True))
        return torch.exp(torch.as_tensor(exponent))

    @property
    def reach(self) -> float:
        return 3 * (max(self.sigma) if isinstance(self.sigma, tuple) else self.sigma)

    @property
    def finest(self) -> float:
        return min(self.sigma) if isinstance(self.sigma, tuple) else self.sigma

    def _widths(self, dim: int) -> tuple[float, ...]:
        widths = self.sigma if isinstance(self.sigma, tuple) else (self.sigma,) * dim
        if len(widths) != dim:
            raise ValueError(f"a kernel with {len(widths)} widths {widths} cannot smooth {dim}-D fields")
        return widths


@dataclass(frozen=True)
class Sum(Kernel):
    """A weighted sum of kernels: large and small deformations at once.

    Args:
        kernels: The summands.
        weights: One positive weight each; they need not sum to 1.
    """

    kernels: tuple[Kernel, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.weights) or not self.kernels:
            raise ValueError(f"{len(self.kernels)} kernels need as many weights, not {len(self.weights)}")

    def spectrum(self, frequencies: Sequence[Tensor]) -> Tensor:
        parts = [w * k.spectrum(frequencies) for w, k in zip(self.weights, self.kernels, strict=True)]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    @property
    def reach(self) -> float:
        return max(k.reach for k in self.kernels)

    @property
    def finest(self) -> float:
        return min(k.finest for k in self.kernels)


@dataclass(frozen=True)
class Sobolev(Kernel):
    """The kernel of ``(1 - length^2 Laplacian)^-order``: longer tails than a Gaussian's, details not lost.

    Args:
        length: In mm.
        order: Above dim/2, or the velocity need not be continuous.
    """

    length: float
    order: float = 2.0

    def spectrum(self, frequencies: Sequence[Tensor]) -> Tensor:
        square = sum((2 * math.pi * self.length * f) ** 2 for f in frequencies)
        return (1 + torch.as_tensor(square)) ** -self.order

    @property
    def reach(self) -> float:
        return 4 * self.length

    @property
    def finest(self) -> float:
        return self.length


def fast_length(n: int) -> int:
    """Return the least number >= n with no prime factor above 5: the lengths at which an FFT is fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


class Smoother:
    """Applies a kernel on a grid; the spectrum is computed once for each dtype and device.

    Args:
        kernel: The kernel, in mm.
        grid: Shape and spacing of the fields.
        padding: mm of zeros added around before the field is taken for periodic, so that one side does not
            smooth into the other; 0 where the grid is already a periodic box.
    """

    def __init__(self, kernel: Kernel, grid: Grid, padding: float = 0.0) -> None:
        self.kernel, self.grid, self.padding = kernel, grid, padding
        self.box = tuple(
            n if padding == 0 else fast_length(n + math.ceil(padding / h))
            for n, h in zip(grid.shape, grid.spacing, strict=True)
        )
        self._spectra: dict[tuple[torch.dtype, torch.device, bool], Tensor] = {}

    def smooth(self, v: Tensor) -> Tensor:
        """Return ``K v``, ``(B, C, *space)`` to the same shape."""
        return self._apply(v, root=False)

    __call__ = smooth

    def root(self, w: Tensor) -> Tensor:
        """Return ``K^(1/2) w``: on a periodic box, twice the root is the kernel."""
        return self._apply(w, root=True)

    def _apply(self, v: Tensor, *, root: bool) -> Tensor:
        axes = tuple(range(2, v.ndim))
        spectrum = torch.fft.rfftn(v, s=self.box, dim=axes) * self._spectrum(v, root)
        result = torch.fft.irfftn(spectrum, s=self.box, dim=axes)
        for axis, n in zip(axes, self.grid.shape, strict=True):
            result = result.narrow(axis, 0, n)
        return result

    def _spectrum(self, like: Tensor, root: bool) -> Tensor:
        key = (like.dtype, like.device, root)
        if key not in self._spectra:
            dim, frequencies = len(self.box), []
            for axis, (n, h) in enumerate(zip(self.box, self.grid.spacing, strict=True)):
                make = torch.fft.rfftfreq if axis == dim - 1 else torch.fft.fftfreq
                shape = [-1 if a == axis else 1 for a in range(dim)]
                frequencies.append((make(n, dtype=torch.float64) / h).view(shape))
            spectrum = self.kernel.spectrum(frequencies)
            self._spectra[key] = (spectrum.sqrt() if root else spectrum).to(like)
        return self._spectra[key]
