"""Styles of sites: how the images of one client differ from another's. It works on tensors and imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedbench.task import Styles

if TYPE_CHECKING:
    from torch import Tensor


class SiteStyles(Styles):
    """Feature shift: a blur, brightness, contrast, colour cast and noise of its own for every client.

    An image v in [0, 1] becomes clip(c (b g_j u_j - m) + m + s z, 0, 1) at every pixel, for colour j: u is v under a
    Gaussian blur of standard deviation r; b is the brightness and g_j the gain of the colour; m is the mean of b g u
    over pixels and colours, and c the contrast around it; z ~ N(0, 1) is drawn for every value, s is its strength. The
    client draws b and c log-uniformly in [1/limit, limit], r and s uniformly in [0, limit], and log g like log b, less
    its mean over the colours, so that a cast changes no brightness and grey images have none.

    Source: the kinds of corruption and their strengths follow F. Di Salvo et al., "MedMNIST-C: Comprehensive benchmark
    and improved classifier robustness by simulating realistic image corruptions", arXiv:2406.17536 (2024): brightness
    and contrast as factors, Gaussian blur and noise; its severities 1 to 5 are, for BloodMNIST, brightness 1.1 to 1.4
    and contrast 1.1 to 1.3 and, for OrganAMNIST, noise 0.04 to 0.2. The defaults are about its severity 3.

    Deviations: there each corruption is applied alone, here all of them to all images of a client, as its scanner or
    laboratory would; the colour cast, which stands for staining, is not among its corruptions; the blur is in pixels of
    the 28x28 image, not of the image before it was shrunk; values are not rounded to bytes again.

    Parameters
    ----------
    brightness : float, >= 1
        Largest factor of brightness (b).
    contrast : float, >= 1
        Largest factor of contrast (c).
    blur : float, >= 0
        Largest standard deviation of the blur in pixels (r).
    noise : float, >= 0
        Largest standard deviation of the noise, as a share of the range from black to white (s).
    cast : float, >= 1
        Largest gain of a colour (g), before the mean is taken off.

    Cost: about a hundredth of a training pass a visit; no image is stored, but for the clients' local test sets.
    """

    brightness: float = Field(default=1.3, ge=1, allow_inf_nan=False)
    contrast: float = Field(default=1.4, ge=1, allow_inf_nan=False)
    blur: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    noise: float = Field(default=0.08, ge=0, allow_inf_nan=False)
    cast: float = Field(default=1.2, ge=1, allow_inf_nan=False)

    def applied(self, images: Tensor, style: np.random.Generator, noise: np.random.Generator) -> Tensor:
        """Return images in the style that is drawn from ``style``, with noise drawn from ``noise``."""
        n, height, width, channels = images.shape
        # All is drawn in any case, so that a limit changed moves nothing but its own effect.
        brightness, contrast = np.exp(style.uniform(-1, 1, 2) * np.log([self.brightness, self.contrast]))
        radius, strength = style.uniform(0, 1, 2) * [self.blur, self.noise]
        gains = style.uniform(-1, 1, channels) * math.log(self.cast)
        gains = brightness * np.exp(gains - gains.mean())
        grain = noise.standard_normal(images.shape, dtype=np.float32)

        v = (images + 1) / 2
        if radius > 0:
            down, across = (images.new_tensor(_blur(size, radius)) for size in (height, width))
            v = (down @ v.reshape(n, height, width * channels)).reshape(n * height, width, channels)
            v = (across @ v).reshape(n, height, width, channels)
        v = v * images.new_tensor(gains)
        mean = v.mean(dim=(1, 2, 3), keepdim=True)
        v = (v - mean) * float(contrast) + mean + images.new_tensor(grain) * float(strength)
        return v.clamp(0, 1) * 2 - 1


def _blur(size: int, radius: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian blur of lines of pixels as a matrix; beyond the border the last pixel goes on."""
    from scipy.ndimage import gaussian_filter1d  # tasks name styles, and listing tasks should take no time

    matrix: npt.NDArray[np.float64] = gaussian_filter1d(np.eye(size), radius, axis=0, mode="nearest")
    return matrix
