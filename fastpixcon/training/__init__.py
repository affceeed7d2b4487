"""The main job: train a segmentation network with and without pixel contrast and show what it did.

Nothing in the library imports this package. It needs the ``train`` extra.
"""

import sys
from importlib.util import find_spec

# Import name -> what to install. ``require_extra`` names everything that is missing at once.
_EXTRA = {
    "torchvision": "torchvision",
    "timm": "timm",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "pydantic": "pydantic",
    "PIL": "pillow",
    **({} if sys.version_info >= (3, 11) else {"tomli": "tomli"}),
}


class TrainingError(Exception):
    """Something the user can put right: its message says what and how."""


class OutputLostError(Exception):
    """Standard output could not be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output can't be written: {error.strerror}")
        self.number = error.errno


def require_extra() -> None:
    """Raise ``TrainingError`` if a package of the ``train`` extra is missing."""
    missing = [package for module, package in _EXTRA.items() if find_spec(module) is None]
    if missing:
        raise TrainingError(f"training needs {', '.join(missing)}: pip install 'fastpixcon[train]' installs it")
