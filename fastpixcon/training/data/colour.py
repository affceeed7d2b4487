"""Random brightness, contrast, saturation and hue, as torchvision has them; the hue takes a sixth of its time.

In HSV, with every colour in [0, 1], M its largest and m its smallest part:

    V = M,  S = (M - m) / M,  H = ((G - B) / (M - m)  where R = M,  2 + (B - R) / (M - m)  where G = M,
                                   4 + (R - G) / (M - m)  elsewhere) / 6, modulo 1

and back, for H shifted and k, f whole and fraction of 6 H, the parts are V and, by k,

    p = V (1 - S),  q = V (1 - f S),  t = V (1 - (1 - f) S).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

_ALMOST_256 = 256 - 1e-3  # times a part in [0, 1], cut off, is its byte


class ColourJitter(v2.ColorJitter):
    """``v2.ColorJitter`` of uint8 images [3, H, W], to the bit."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = inpt.as_subclass(Tensor)
        for which in params["fn_idx"].tolist():  # in this order
            if which == 0 and params["brightness_factor"] is not None:
                image = functional.adjust_brightness_image(image, params["brightness_factor"])
            elif which == 1 and params["contrast_factor"] is not None:
                image = functional.adjust_contrast_image(image, params["contrast_factor"])
            elif which == 2 and params["saturation_factor"] is not None:
                image = functional.adjust_saturation_image(image, params["saturation_factor"])
            elif which == 3 and params["hue_factor"] is not None:
                image = torch.from_numpy(shifted_hue(image.numpy(), params["hue_factor"]))
        return tv_tensors.wrap(image, like=inpt)


def shifted_hue(image: NDArray[np.uint8], shift: float) -> NDArray[np.uint8]:
    """Image [3, H, W], RGB, with ``shift`` in [-0.5, 0.5] added to the hue of every pixel: -> [3, H, W].

    Every step rounds as torchvision's does, in float32; what only chooses is of bytes.
    """
    r, g, b = image
    largest, smallest = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)  # [H, W]
    parts, value, low = (x.astype(np.float32) for x in (image, largest, smallest))
    for x in (parts, value, low):
        x *= np.float32(1 / 255)
    span = value - low
    saturation = span / (value + (largest == 0))  # black has none
    span += largest == smallest  # nor has grey a hue
    from_r, from_g, from_b = np.divide(value - parts, span, out=parts)
    is_r = r == largest
    is_g = (g == largest) & ~is_r
    hue = (from_b - from_g) * is_r
    hue += (from_r + np.float32(2) - from_b) * is_g
    hue += (from_g + np.float32(4) - from_r) * ~(is_r | is_g)
    hue *= np.float32(1 / 6)
    hue += 1
    hue -= np.floor(hue)
    hue += np.float32(shift)
    hue -= np.floor(hue)
    hue *= 6
    whole = np.floor(hue)
    hue -= whole  # the fraction
    hue *= saturation
    np.subtract(1, saturation, out=saturation)
    v, p, q, t = (_bytes(x) for x in (value, saturation * value, (1 - hue) * value, (hue + saturation) * value))
    # Bytes of ones where it is 1 to 5; 6 is 0 again.
    k1, k2, k3, k4, k5 = (-(whole.astype(np.uint8) == k).view(np.uint8) for k in range(1, 6))
    k0 = ~(k1 | k2 | k3 | k4 | k5)
    shifted = np.empty_like(image)
    shifted[0] = v & (k0 | k5) | q & k1 | p & (k2 | k3) | t & k4
    shifted[1] = t & k0 | v & (k1 | k2) | q & k3 | p & (k4 | k5)
    shifted[2] = p & (k0 | k1) | t & k2 | v & (k3 | k4) | q & k5
    return shifted


def _bytes(part: NDArray[np.float32]) -> NDArray[np.uint8]:
    np.clip(part, 0, 1, out=part)
    part *= np.float32(_ALMOST_256)
    return part.astype(np.uint8)
