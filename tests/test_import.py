"""What importing the library costs and does: little, and nothing to the machine."""

import json
import statistics
import subprocess
import sys

# Where other programs take the processor, all its seconds are longer: torch's import is the clock.
TORCH_SECONDS = 1.5  # of the processor, on a machine that does nothing else
ALLOWED = 0.150

TIMED = """
import json, time
begin = time.process_time()
import torch
middle = time.process_time()
import fastpixcon
end = time.process_time()
print(json.dumps([middle - begin, end - middle]))
"""

WATCHED = """
import json, sys
import torch
before, seen = set(sys.modules), []
EVENTS = ("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "urllib.",
          "os.mkdir", "os.remove", "os.rename", "shutil.", "tempfile.")
def watch(event, arguments):
    if event.startswith(EVENTS):
        seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if "__pycache__" not in str(arguments[0]):
            seen.append(f"{event} {arguments}")
sys.addaudithook(watch)
import fastpixcon
print(json.dumps({
    "seen": seen,
    "modules": sorted(set(sys.modules) - before),
    "cuda": torch.cuda.is_initialized(),
    "threads": torch.get_num_threads(),
}))
"""


def printed(code: str) -> "list[float] | dict[str, object]":
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    value: list[float] | dict[str, object] = json.loads(done.stdout)
    return value


def test_it_takes_under_150_ms_over_torch() -> None:
    torch_seconds, seconds = (statistics.median(part) for part in zip(*(printed(TIMED) for _ in range(5)), strict=True))
    slow = max(1.0, torch_seconds / TORCH_SECONDS)
    assert seconds < ALLOWED * slow, f"{seconds:.3f} s of the processor, where torch takes {torch_seconds:.3f} s"


def test_it_starts_nothing_and_touches_no_device() -> None:
    """No process, no socket, no file written, no compiler; Triton and what torch imports when it compiles stay away."""
    done = printed(WATCHED)
    assert isinstance(done, dict)
    assert done["seen"] == []
    assert done["cuda"] is False
    assert isinstance(done["modules"], list)
    tops = {name.partition(".")[0] for name in done["modules"]}
    assert "fastpixcon" in tops
    heavy = {"triton", "sympy", "torchvision", "matplotlib", "pydantic", "transformers", "timm", "scipy", "PIL", "rich"}
    assert not tops & heavy
    assert not [name for name in done["modules"] if name.startswith(("torch._dynamo", "torch._inductor"))]
    assert not [name for name in done["modules"] if name.startswith(("fastpixcon.training", "fastpixcon.cli"))]
