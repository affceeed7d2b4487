"""fastpixcon: contrastive learning on dense labels, in memory that grows with the anchors and not their square."""

from fastpixcon import functional, ops
from fastpixcon._version import __version__
from fastpixcon.contrast_model import ContrastModel
from fastpixcon.last_call import LastCall
from fastpixcon.losses import InfoNCELoss, PixelContrastLoss, SupConLoss
from fastpixcon.memory import MemoryBank
from fastpixcon.mining import Mining
from fastpixcon.ops.backends import backend, show_config
from fastpixcon.pairs import Pairs

__all__ = [
    "ContrastModel",
    "InfoNCELoss",
    "LastCall",
    "MemoryBank",
    "Mining",
    "Pairs",
    "PixelContrastLoss",
    "SupConLoss",
    "__version__",
    "backend",
    "functional",
    "ops",
    "show_config",
]
