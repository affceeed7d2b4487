"""fastpixcon bench: its truth, its peers on every workload, what it refuses, its results and reports."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import wrong_peers

from fastpixcon.bench import laws, machine, peers, processors, report, suite, truth, workers, workloads
from fastpixcon.bench.cells import entries
from fastpixcon.bench.workloads import Cell
from fastpixcon.training import TrainingError

ROOT = Path(__file__).resolve().parents[1]

SLOW_TO_COMPILE = ("compiled", "compiled_chunks", "keops")
ROW_CELLS = [cell for cell in workloads.smallest() if cell.workload in workloads.ROW_WORKLOADS]
STATUSES = {workers.OK, workers.MEMORY, workers.TIME, workers.WRONG, workers.FAILED, workers.ABSENT, workers.NO_FORMULA}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The suite at its smallest sizes, with every peer that need not compile."""
    out = tmp_path_factory.mktemp("bench")
    fast = [name for name in peers.PEERS if name not in SLOW_TO_COMPILE]
    arguments = [
        "--smallest",
        "--minutes",
        "9",
        "--threads",
        "1",
        "--time-limit",
        "30",
        "--repeats",
        "2",
        "--out",
        str(out),
    ]
    assert suite.main([*arguments, "--peers", *fast]) == 0
    return json.loads((out / "results.json").read_text()), out


def test_every_peer_is_measured_or_says_why_not(measured: tuple[dict[str, Any], Path]) -> None:
    results, _ = measured
    assert {entry["cell"]["workload"] for entry in results["cells"].values()} == set(workloads.WORKLOADS)
    for key, entry in results["cells"].items():
        for name, answer in entry["peers"].items():
            where = f"{key}: {name}: {answer}"
            assert answer["status"] in STATUSES - {workers.WRONG, workers.FAILED}, where
            if answer["status"] == workers.OK and entry["cell"]["workload"] != "select":
                assert answer["gradient_error"] < 1e-5, where
            if answer["status"] in (workers.ABSENT, workers.NO_FORMULA):
                assert answer["reason"], where
        assert entry["peers"]["fastpixcon"]["status"] == workers.OK, key
        assert entry["peers"]["eager"]["status"] == workers.OK, key


def test_the_schema(measured: tuple[dict[str, Any], Path]) -> None:
    results, _ = measured
    assert results["schema"] == suite.SCHEMA
    (run,) = results["runs"]
    assert {"date", "commit", "cpu", "cores", "threads", "packages", "matmul_tflops", "bandwidth_gbs"} <= set(run)
    assert run["packages"]["torch"] == torch.__version__.partition("+")[0] or run["packages"]["torch"]
    for key, entry in results["cells"].items():
        assert Cell(**entry["cell"]).key == key
        assert entry["run"] == 0
        for answer in entry["peers"].values():
            if answer["status"] == workers.OK:
                assert answer["memory"] >= 0
                assert 1 <= len(answer["seconds"]) <= 2
                assert min(answer["seconds"]) <= answer["median"] <= max(answer["seconds"])


def test_the_report_has_every_cell_and_reason(measured: tuple[dict[str, Any], Path]) -> None:
    results, out = measured
    text = (out / "README.md").read_text()
    for cell, entry in entries(results):
        section = re.search(rf"## {cell.workload}: .*?(?=\n## )", text, re.DOTALL)
        assert section is not None
        row = f"| {' | '.join(report.problem(cell))} |"
        assert section[0].count(row) == 2, row  # time and memory
        for name, answer in entry["peers"].items():
            if answer["status"] == workers.NO_FORMULA:
                assert f"{answer['reason']} |" in text
            elif answer["status"] == workers.OK and name != peers.OURS:
                assert name in section[0]
    assert "## Where a peer is ahead" in text
    assert (out / "ratios.png").stat().st_size > 1000


def test_pages_have_what_the_results_say() -> None:
    """Written by fastpixcon bench --report, never by hand; pictures need matplotlib."""
    folder, readme = ROOT / "bench" / "results", (ROOT / "README.md").read_text()
    found = processors.read(folder)
    assert {"zen3", "zen5"} <= set(found), "bench/results is part of the repository"
    assert processors.with_figures(readme, folder) == readme
    assert processors.markdown(folder) == (folder / "README.md").read_text()
    for name, results in found.items():
        pictures = [picture for picture in report.FILES[1:] if (folder / name / picture).exists()]
        assert report.markdown(results, pictures) == (folder / name / "README.md").read_text(), name
    for name, text in processors.notes(folder).items():  # of figures without results
        assert text in (folder / "README.md").read_text()
        assert text in " ".join(readme.split()), name


def answers(**seconds: float) -> dict[str, Any]:
    return {name: {"status": workers.OK, "median": x, "memory": 100 * x} for name, x in seconds.items()}


def results_of(processor: str, cells: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    run = {"cpu": processor, "cores": 2, "threads": 2, "commit": f"of-{processor}", "date": "2026-12-01T00:00:00"}
    found = {cell.key: {"cell": vars(cell), "run": 0, "peers": peers} for cell, peers in cells.items()}
    return {"schema": suite.SCHEMA, "runs": [run], "cells": found}


def test_the_page_of_all_processors_has_the_worst_of_each_cell(tmp_path: Path) -> None:
    both, one, lonely = Cell("self", 4096, threads=2), Cell("self", 4096, threads=1), Cell("pairs", 64, 64, threads=2)
    cells = {
        "fast": {both: answers(fastpixcon=1, eager=4, lean=3), one: answers(fastpixcon=2, eager=9)},
        "slow": {both: answers(fastpixcon=2, eager=3, lean=5), lonely: answers(fastpixcon=2, lean=1)},
    }
    for name, of in cells.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results_of(f"{name}-1", of)))
    (tmp_path / "noted").mkdir()
    (tmp_path / "noted" / "README.md").write_text("# Old\n\nA peer was\nfaster.\n\nMore.\n")
    page = processors.markdown(tmp_path)
    slow, fast = "slow, of-slow-1, 2026-12-01", "fast, of-fast-1, 2026-12-01"
    start = "| self | 4,096 | - | 256 | float32 | 19"
    assert f"{start} | all | fast, slow | eager 1.50 x | {slow} | eager 1.50 x | {slow} |" in page
    assert f"{start} | 1 | fast | eager 4.50 x | {fast} | eager 4.50 x | {fast} |" in page
    lines = re.findall(r"^- (slow: pairs.*)$", page, re.MULTILINE)
    where = "slow: pairs: N 64, M 64, D 256, dtype float32, classes -, threads 2"
    assert lines == [
        f"{where}: lean 1 s, fastpixcon 2 s; commit of-slow-1, 2026-12-01",
        f"{where}: lean 0.0 MiB, fastpixcon 0.0 MiB; commit of-slow-1, 2026-12-01",
    ]
    assert "In time: 1." in page
    assert "- [noted](noted/README.md): A peer was faster." in page
    said = " ".join(processors.figures(tmp_path).split())
    nearest = "the nearest takes 0.50 x (`lean`: pairs, N = 64, M = 64, float32, slow)."
    assert f"In 1 of 4 cells is a peer faster; {nearest}" in said
    assert "Not among these, [noted](bench/results/noted/README.md): A peer was faster." in said


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "name"),
    [
        ("AuthenticAMD", 26, 2, "avx2 avx512f avx512_bf16", "zen5"),
        ("AuthenticAMD", 25, 1, "avx2", "zen3"),
        ("AuthenticAMD", 25, 17, "avx2 avx512f", "zen4"),
        ("AuthenticAMD", 99, 1, "avx2 avx512f", "avx512"),
        ("GenuineIntel", 6, 143, "avx2 avx512f avx512_bf16 amx_bf16", "amx"),
        ("GenuineIntel", 6, 85, "avx2 avx512f", "avx512"),
        ("GenuineIntel", 6, 60, "avx2", "avx2"),
        ("", 0, 0, "", platform.machine()),
    ],
)
def test_a_folder_is_named_for_its_processor(vendor: str, family: int, model: int, flags: str, name: str) -> None:
    found = {"vendor_id": vendor, "cpu family": str(family), "model": str(model), "flags": flags}
    assert machine.processor_name(found) == name


def test_results_go_to_the_folder_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    name = machine.folder_name("cpu")
    assert suite.parse([]).out == ROOT / "bench" / "results" / name
    assert suite.parse(["--quick"]).out == Path("runs/bench-quick")
    monkeypatch.setattr(machine, "repository", lambda: None)
    assert suite.parse([]).out == Path("runs/bench")


def test_results_of_another_machine_are_not_mixed_with_these(tmp_path: Path) -> None:
    known = results_of("another", {Cell("self", 64): answers(fastpixcon=1.0)})
    (tmp_path / "results.json").write_text(json.dumps(known))
    arguments = ["--smallest", "--workloads", "select", "--peers", "lean", "--out", str(tmp_path)]
    with pytest.raises(TrainingError, match=r"has results of another, this is .*; want another folder, or --fresh"):
        suite.main(arguments)
    assert json.loads((tmp_path / "results.json").read_text()) == known


def test_what_is_known_is_not_measured_again(
    measured: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = measured
    arguments = ["--smallest", "--threads", "1", "--out", str(out), "--peers", "eager", "lean"]
    assert suite.main(arguments) == 0
    assert "[1/" not in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text()) == results
    assert suite.main([*arguments, "--fresh", "--workloads", "select"]) == 0
    fresh = json.loads((out / "results.json").read_text())
    assert list(fresh["cells"]) == [key for key in results["cells"] if key.startswith("select")]


def test_wrong_large_and_failing_peers_are_refused(tmp_path: Path) -> None:
    arguments = [
        "--smallest",
        "--workloads",
        "supcon",
        "--threads",
        "1",
        "--repeats",
        "1",
        "--module",
        "harness.wrong_peers",
    ]
    arguments += ["--time-limit", "1", "--memory-limit", "4", "--out", str(tmp_path)]
    names = ["gradient", "loss", "nan", "large", "raises"]
    assert suite.main([*arguments, "--peers", "eager", *names]) == 0
    (entry,) = json.loads((tmp_path / "results.json").read_text())["cells"].values()
    answers = entry["peers"]
    assert answers["eager"]["status"] == workers.OK
    for name in ("gradient", "loss", "nan"):
        assert answers[name]["status"] == workers.WRONG
        assert "seconds" not in answers[name]
    assert "wrong gradient: relative error" in answers["gradient"]["reason"]
    assert "wrong loss: relative error 1.0e-02" in answers["loss"]["reason"] or "gradient" in answers["loss"]["reason"]
    assert answers["large"]["status"] == workers.MEMORY
    assert answers["raises"] == {"status": workers.FAILED, "reason": "KeyError: 'no such thing'"}


def test_a_peer_that_is_too_slow_is_ended() -> None:
    worker = workers.Worker(wrong_peers.oversleep)
    with pytest.raises(workers.NoResultError) as refused:
        worker.ask(0.5)
    assert refused.value.status == workers.TIME
    worker.close()
    assert worker.process.exitcode == -signal.SIGKILL


def _processes_with(variable: str) -> list[str]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:  # ended meanwhile, or not ours
            pass
    return found


def test_an_interrupted_suite_leaves_no_process(tmp_path: Path) -> None:
    began = tmp_path / "began"
    environment = os.environ | {"SLOW_PEER_BEGAN": str(began), "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "fastpixcon", "bench", "--smallest", "--workloads", "supcon", "--threads", "1"]
    command += ["--module", "harness.wrong_peers", "--peers", "slow", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 120
            while not began.exists():
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert "run it again to go on" in errors
    assert "Traceback" not in errors
    until = time.monotonic() + 10
    while left := _processes_with(f"SLOW_PEER_BEGAN={began}"):  # those without a question to wait for end by themselves
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["results.json", "README.md", "time.png"])
def test_a_file_of_the_users_is_not_replaced(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured; in a folder with results of the suite everything is the suite's."""
    monkeypatch.setattr(suite.Suite, "measure", lambda *_: pytest.fail("no work before"))
    (tmp_path / name).write_text("{}")
    arguments = ["--smallest", "--workloads", "supcon", "--out", str(tmp_path)]
    with pytest.raises(TrainingError, match=rf"--out: .*{name} is there; want another folder"):
        suite.main(arguments)
    assert (tmp_path / name).read_text() == "{}"
    (tmp_path / "results.json").write_text(json.dumps({"schema": suite.SCHEMA, "runs": [], "cells": {}}))
    suite.check_outputs(tmp_path)


def test_results_are_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "results.part").write_text("mine")
    (tmp_path / "results.json").symlink_to("store")
    suite.save({"cells": {}}, tmp_path / "results.json")
    assert json.loads((tmp_path / "store").read_text()) == {"cells": {}}
    assert (tmp_path / "results.json").is_symlink()
    assert (tmp_path / "results.part").read_text() == "mine"


@pytest.mark.parametrize("cell", ROW_CELLS, ids=lambda cell: cell.workload)
def test_the_truth_is_that_of_autograd_in_float64(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all rows at once, by blocks, and of drawn rows."""
    problem = workloads.rows(cell)
    x, c = (None if t is None else t.detach().double() for t in (problem.anchors, problem.contrast))
    x.requires_grad_()
    if c is not None and problem.contrast.requires_grad:
        c.requires_grad_()
    exact = problem._replace(anchors=x, contrast=c)
    loss = peers.eager(exact)()
    loss.backward()
    gradients = [leaf.grad for leaf in exact.leaves]
    for exact_pairs, elements in ((2**24, 2**23), (2**24, 1000), (0, 2**23)):
        monkeypatch.setattr(truth, "EXACT", exact_pairs)
        monkeypatch.setattr(truth, "BLOCK_ELEMENTS", elements)
        monkeypatch.setattr(truth, "ROWS", 50)
        found = truth.of_rows(problem)
        assert len(found.gradients[0][0]) == (50 if exact_pairs == 0 else cell.n)
        assert max(truth.errors(found, float(loss.detach()), gradients)) < (1e-5 if exact_pairs == 0 else 1e-12)


def test_a_wrong_selection_is_noticed() -> None:
    problem = workloads.problem(workloads.smallest()[-1])
    index, label = peers.ours(problem)()
    assert truth.selection_error(problem, index, label) is None
    assert "other labels" in (truth.selection_error(problem, index, label.roll(1)) or "")
    assert "hard and easy" in (truth.selection_error(problem, index[1:], label[1:]) or "")
    outside = problem.embeddings.detach().clone()
    right = truth.Truth(1.0, [(index[:5], outside.permute(0, 2, 3, 1).flatten(0, 2)[index[:5]].double())])
    assert truth.errors(right, 1.0, [outside])[1] > 1  # what a gradient map has elsewhere counts


def test_larger_sizes_of_what_was_too_slow_are_left_out() -> None:
    options = suite.parse(["--time-limit", "10", "--threads", "1"])
    small, large = (Cell("self", n, threads=1) for n in (1024, 4096))
    known = {"eager": {"status": workers.OK, "median": 1.0}, "lean": {"status": workers.MEMORY, "reason": ""}}
    results = {"cells": {small.key: {"cell": vars(small), "peers": known}}}
    runner = suite.Suite(results, ["eager", "lean"], options)
    for name, reason in (("eager", "by N = 1,024 it would take 16 s"), ("lean", "at N = 1,024 already")):
        for cell in (large, replace(large, classes=2, labels="long-tailed")):
            with pytest.raises(workers.NoResultError) as error:
                runner.refuse_early(name, cell)
            assert error.value.reason == reason
    runner.refuse_early("lean", replace(large, dtype="bfloat16"))  # another series


def test_exponents_are_those_of_the_numbers() -> None:
    results: dict[str, Any] = {"runs": [], "cells": {}}
    for n in (1024, 4096, 8192, 16384):
        cell = Cell("self", n, threads=2)
        answer = {"status": workers.OK, "median": 1e-9 * n**2 if n >= 4096 else 1.0, "memory": 12 * n}
        results["cells"][cell.key] = {"cell": vars(cell), "run": 0, "peers": {"fastpixcon": answer}}
    found = {(law.of, law.along): law for law in laws.laws(results)}
    assert found["median", "n"].exponent == pytest.approx(2)
    assert found["memory", "n"].exponent == pytest.approx(1)
    assert (found["median", "n"].points, found["median", "n"].low) == (3, 4096)


def test_points_where_a_peer_is_ahead_are_listed() -> None:
    ours = {"status": workers.OK, "median": 2.0, "memory": 2**21}
    ahead = {"status": workers.OK, "median": 1.0, "memory": 2**20}
    cells = {
        cell.key: {"cell": vars(cell), "run": 0, "peers": {"fastpixcon": ours, "eager": ahead}}
        for cell in (Cell("self", 512), Cell("self", 2048), Cell("self", 4096))
    }
    for of, text in (("median", "eager 1 s, fastpixcon 2 s"), ("memory", "eager 1.0 MiB, fastpixcon 2.0 MiB")):
        found = report.ahead({"cells": cells, "runs": [{}]}, of)
        assert [x.cell.n for x in found] == [512, 2048, 4096]
        assert str(found[0]).endswith(text)


def test_nothing_is_said_of_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """torch would, in every process that compiles, where it finds an nvcc."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    env = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    said = []
    for first in ("torch", "fastpixcon.bench.peers"):
        code = f"import {first}, torch.utils.cpp_extension"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append("No CUDA runtime is found" in done.stderr)
    assert said == [torch.version.cuda is not None, False]
