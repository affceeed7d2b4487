"""``python -m fuzz [info_nce] [--seconds 60] [--seed 17] [--isa avx2]``: every target, on every instruction set
that this processor has or can emulate, each in a process of its own, whose end says what became of it. Without --seed
every run has inputs of its own, and says which. ``--backend triton``: the Triton kernels, interpreted; ``cuda``: the
CUDA kernels, in the emulator."""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom

ROOT = Path(__file__).resolve().parents[2]
ISAS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx", "avx512_emulated", "avx512_bf16_emulated", "amx_emulated")


def fuzz(arguments: argparse.Namespace, kind: str) -> int:
    """All targets in this process, until the time is over; how many inputs have failed."""
    import torch
    from harness.compiled_cuda import Emulator, launching
    from harness.tested_backends import Backend

    from fuzz import targets

    executed = contextlib.ExitStack()
    if arguments.backend == "cuda":
        targets.backend = Backend("native", "cpu", is_executed=True)
        executed.enter_context(launching(Emulator()))
    else:
        targets.backend = Backend(arguments.backend, "cpu")
    how = f"--backend {kind}" if kind == arguments.backend else f"--isa {kind}"
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory that nothing was written to is NaN
    # A property of a module that torch replaces by a class, which mypy does not see.
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    if arguments.backend != "triton":
        print(f"{kind:>20} {sys.modules['fastpixcon._C'].__file__}", flush=True)
    names = [arguments.target] if arguments.target else list(targets.CASES)
    failures, modes = 0, Counter[str]()
    began = time.perf_counter()
    for number, operator in enumerate(names):
        seed, done = arguments.seed, 0
        until = began + arguments.seconds * (number + 1) / len(names)
        while done < arguments.runs if arguments.runs else time.perf_counter() < until:
            report = arguments.out / f"{operator}-{kind}-{seed}.txt"
            report.write_text(f"cd tests && python -m fuzz {operator} --seed {seed} --runs 1 {how}\n")
            given = targets.make(operator, seed)
            report.write_text(f"{report.read_text()}{given}\n")  # stays there if the process doesn't
            try:
                looked_at = targets.check(given)
            except Exception as error:  # also what the reference makes of it
                failures += 1
                report.write_text(f"{report.read_text()}{type(error).__name__}: {error}\n")
                if given.arguments is not None:
                    torch.save(given.arguments, report.with_suffix(".pt"))
                print(report.read_text(), flush=True)
            else:
                report.unlink()
                modes[given.mode if looked_at else "left out"] += 1
            seed, done = seed + 1, done + 1
        print(f"{kind:>20} {operator:<26} {done:>6} inputs from seed {arguments.seed}", flush=True)
    left_out = modes.pop("left out", 0)
    print(f"{kind:>20} {failures} failed of {modes.total() + failures}, {dict(modes)}, {left_out} left out", flush=True)
    executed.close()
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", help="an operator; all without it")
    parser.add_argument(
        "--seed", type=int, help="of every target's first input, from where on it counts; fresh without it"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="all targets together, on each instruction set")
    parser.add_argument("--runs", type=int, help="inputs a target, instead of seconds")
    parser.add_argument("--isa", help="only this one")
    parser.add_argument("--backend", choices=("native", "triton", "cuda"), default="native")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="where failing inputs are written")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.seed is None:
        arguments.seed = SystemRandom().randrange(2**40)
        print(f"--seed {arguments.seed}", flush=True)
    if arguments.backend == "native":
        variable, kinds = "FASTPIXCON_CPU_ISA", [arguments.isa] if arguments.isa else list(ISAS)
    else:
        variable, kinds = "TRITON_INTERPRET", [str(int(arguments.backend == "triton"))]
    if len(kinds) == 1 and os.environ.get(variable) == kinds[0]:
        return min(1, fuzz(arguments, kinds[0] if arguments.backend == "native" else arguments.backend))
    codes = []
    for kind in kinds:
        options = [*sys.argv[1:], "--seed", str(arguments.seed), *(["--isa", kind] if len(kinds) > 1 else [])]
        env = {**os.environ, variable: kind}
        probe = [sys.executable, "-W", "ignore", "-c", "import fastpixcon.ops.extension"]
        found = subprocess.run(probe, env=env, capture_output=True, text=True, check=False)
        if "this processor" in found.stderr or "needs a processor" in found.stderr:
            print(f"{kind:>20} not on this processor", flush=True)
            continue
        if "builds for tests" in found.stderr:
            print(f"{kind:>20} not in this build, make test has it", flush=True)
            continue
        codes.append(subprocess.run([sys.executable, "-m", "fuzz", *options], env=env, check=False).returncode)
        if codes[-1] not in (0, 1):
            print(f"{kind:>20} ended with {codes[-1]}, on the input in {arguments.out}", flush=True)
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
