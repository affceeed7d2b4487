"""Triton's interpreter without two thirds of its work, of which nothing comes."""

import dataclasses
from typing import Any


def spare_work() -> None:
    """What a kernel calls patches triton.language again at every call: here once a launch. And of every sum and product
    of integers it is computed whether it overflows, which nothing asserts without "debug"."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    patch, execute = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[frozenset[str]] = set()  # of which languages a function sees: triton.language, its core, both

    def patch_new(function: Any) -> Any:
        languages = (interpreter.tl, interpreter.tl.core)
        seen = frozenset(x.__name__ for x in languages if any(x is y for y in function.__globals__.values()))
        if seen in patched:
            return None  # nobody restores what functions patch
        patched.add(seen)
        return patch(function)

    def launch(self: Any, *arguments: Any, **options: Any) -> Any:
        patched.clear()
        return execute(self, *arguments, **options)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_new, launch
