"""mmsegmentation without a compiled mmcv, which has wheels for few versions of torch: nothing of it is called here."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import pytest
from harness.tested_backends import REQUIRED


def missing() -> str | None:
    """Why mmsegmentation can't be imported; None if it can."""
    absent = [name for name in ("mmengine", "mmcv", "mmseg") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed; `make test` installs what the Makefile calls MMSEG"
    if importlib.util.find_spec("mmseg.registry") is None:
        return "mmseg: another package of that name, without a registry"
    return None


def import_or_skip() -> ModuleType:
    """mmseg, with a stand-in for mmcv's compiled module if it has none; skips the test, or fails it where required."""
    why = missing()
    if why is not None:
        pytest.fail(why) if "mmseg" in REQUIRED else pytest.skip(why)
    if "mmcv._ext" not in sys.modules and importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = Extension("mmcv._ext")
    import mmseg.models

    return mmseg


class Extension(ModuleType):
    """Has every function, and each raises."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"mmcv._ext.{name} is a stand-in")

        return call
