"""Writes pages that are made of code and of what was measured: the command line, examples, benchmarks, trainings."""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from fastpixcon.cli import parser
from fastpixcon.training import config, seeds, study

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
CAMVID = ROOT / "bench" / "camvid"
STUDIES = ROOT / "bench" / "studies"


def command_line() -> str:
    """The help of every verb, as ``fastpixcon VERB --help`` prints it."""
    lines = []
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                inner.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=88)
                lines += [f"## {verb}", "", "```text", inner.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def benchmarks(folder: Path) -> str:
    """What ``bench/results`` holds: the page of all processors, then each one's, with its pictures."""
    if not (page := RESULTS / "README.md").exists():
        return "No results of the benchmark suite are in this tree.\n"
    parts = [included(page.read_text(encoding="utf-8"), folder.name)]
    for table in sorted(RESULTS.glob("*/README.md")):
        pictures = folder / table.parent.name
        pictures.mkdir(exist_ok=True)
        for picture in table.parent.glob("*.png"):
            shutil.copy(picture, pictures)
        parts.append(included(table.read_text(encoding="utf-8"), f"{folder.name}/{pictures.name}"))
    return "\n".join(parts)


def example(path: Path) -> str:
    """A script in cells as a page: those of Markdown without their marks, code as it stands."""
    _, *cells = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = []
    for kind, body in zip(cells[::2], cells[1::2], strict=True):
        if kind.strip() == "[markdown]":
            parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip())
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def included(text: str, folder: str) -> str:
    """A page as part of another: its headings below that one's title, its pictures in ``folder``, no links to files."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i, part in enumerate(parts[::2]):
        part = re.sub(r"^(#+ )", r"#\1", part, flags=re.MULTILINE)
        part = re.sub(r"(!\[[^]]*\])\((?:\./)?([\w.-]+)\)", rf"\1({folder}/\2)", part)
        parts[2 * i] = re.sub(r"(?<!!)\[([^]]+)\]\((?!https?:|#)[^)]*\)", r"\1", part)
    return "".join(parts)


def camvid(results: Path) -> str:
    """mIoU of every arm and seed of a folder, and the IoU of every class in the mean over seeds."""
    runs = [seeds.read(file) for file in sorted(results.glob("seed-*.json"))]
    arms = list(runs[0]["arms"])
    whole = [run for run in runs if set(arms) <= run["arms"].keys()]
    names = ", ".join(str(run["config"]["seed"]) for run in whole)
    lines = [seeds.markdown(seeds.compare(runs)), "", f"Of every class, in % and in the mean over seeds {names}:", ""]
    lines += ["| class | " + " | ".join(arms) + " |", "| --- |" + " ---: |" * len(arms)]
    for k, name in enumerate(runs[0]["classes"]):
        means = [mean(100 * run["arms"][arm]["iou"][k] for run in whole) for arm in arms]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in means) + " |")
    made = sorted({run["environment"]["commit"] for run in runs})
    lines += ["", f"Commit {', '.join(made)}; {runs[0]['environment']['processor']}, one thread a run."]
    return "\n".join(lines) + "\n"


def gains(results: Path, score: str, name: str) -> str:
    """A row of the table of all studies: the gain of contrast in a score."""
    runs = [seeds.read(file) for file in sorted(results.glob("seed-*.json"))]
    ce, contrast, *_ = seeds.compare(runs, score)
    at = contrast.gain[contrast.worst]
    cells = [name, len(contrast.gain), f"{ce.mean:.2f}", f"{contrast.mean:.2f}", f"{mean(contrast.gain.values()):+.2f}"]
    return f"| {' | '.join(map(str, cells))} | {at:+.2f} | {contrast.p_text} |"


def evidence() -> str:
    """Every study of contrast against cross-entropy, a row each."""
    lines = ["| trained | seeds | cross-entropy | with contrast | gain | worst seed | p |", f"| --- |{' ---: |' * 6}"]
    lines.append(gains(CAMVID / "long", "miou", "CamVid, 11 classes, forty epochs"))
    lines.append(gains(STUDIES / "camvid", "miou", "CamVid, eight epochs"))
    for score, name in (
        ("five_or_more", "37 classes"),
        ("frequent", "of these 15 frequent"),
        ("middle", "13 middle"),
        ("rare", "9 rare"),
    ):
        lines.append(gains(STUDIES / "ccp", score, f"Clothing Co-Parsing, five epochs, {name}"))
    return "\n".join(lines) + "\n"


def scores(results: Path) -> str:
    """Of every seed of a study, by each of its scores."""
    runs = [seeds.read(file) for file in sorted(results.glob("seed-*.json"))]
    parts = []
    for score in seeds.scores_of(runs):
        of = "all classes" if score == seeds.MIOU else score
        parts += [f"mIoU of {of}, %:", "", seeds.markdown(seeds.compare(runs, score)), ""]
    made = sorted({run["environment"]["commit"] for run in runs})
    processors = sorted({run["environment"]["processor"] for run in runs})
    return "\n".join([*parts, f"Commit {', '.join(made)}; {', '.join(processors)}, one thread a run."]) + "\n"


def variants(results: Path) -> str:
    """Contrast with other settings, beside the study's own seeds: its folder ``variants`` has their results."""
    made = [seeds.read(file) for file in sorted((results / "variants").glob("*.json"))]
    runs = {run["config"]["seed"]: run for run in map(seeds.read, sorted(results.glob("seed-*.json")))}
    runs = {seed: run for seed, run in runs.items() if seed in {other["config"]["seed"] for other in made}}
    for run in runs.values():
        run["arms"] = {arm: run["arms"][arm] for arm in ("ce", "ce+contrast")}
    named: list[tuple[str, str, dict[str, Any]]] = []
    for other in made:
        run = runs[other["config"]["seed"]]
        ran = config.parse(other["config"])
        changed = set(config.differences(ran, config.parse(run["config"]))) - {"arms"}
        names = sorted(key.removeprefix("contrast.") for key in changed)
        variant = ", ".join(f"{name} {getattr(ran.contrast, name)}" for name in names)
        named.append((variant, "ce+contrast", other))
    return seeds.markdown(seeds.compare(seeds.with_variants(list(runs.values()), named))) + "\n"


def candidates(file: Path) -> str:
    """What a study has beside its arms, of the seeds that have results, in the order of its file."""
    asked = study.read(file)
    results = ROOT / asked.results
    found = {name: sorted(results.glob(f"variants/{name}-seed-*.json")) for name in asked.variants}
    named = [(name, asked.variants[name].arm, seeds.read(made)) for name, files in found.items() for made in files]
    numbers = {run["config"]["seed"] for _, _, run in named}
    runs = [run for run in map(seeds.read, sorted(results.glob("seed-*.json"))) if run["config"]["seed"] in numbers]
    return seeds.markdown(seeds.compare(seeds.with_variants(runs, named))) + "\n" if named else "None yet.\n"


def probe(file: Path, drift_alone: bool = False) -> str:
    """What bench/studies/bank_probe.py measured: how rows drift, then what the bank and mining do."""
    found = json.loads(file.read_text(encoding="utf-8"))
    ages = found["drift"]
    lines = [f"| age of a row, iterations | {' | '.join(ages)} |", "| --- |" + " ---: |" * len(ages)]
    for key, name in (
        ("mean", "cosine with what the network gives now, mean"),
        ("least_tenth", "the tenth that moved most, at most"),
    ):
        lines.append(f"| {name} | " + " | ".join(f"{at[key]:.2f}" for at in ages.values()) + " |")
    if drift_alone:
        return "\n".join(lines) + "\n"
    measured = found["measured"]
    iterations = [str(entry["iteration"]) for entry in measured]
    lines += ["", f"| after iteration | {' | '.join(iterations)} |", "| --- |" + " ---: |" * len(measured)]
    for name, value in PROBED.items():
        lines.append(f"| {name} | " + " | ".join(value(entry) for entry in measured) + " |")
    return "\n".join(lines) + "\n"


def share(key: str, of: str = "") -> Callable[[dict[str, Any]], str]:
    return lambda entry: f"{100 * entry[key] / (entry[of] if of else 1):.0f} %"


PROBED: dict[str, Callable[[dict[str, Any]], str]] = {
    "places of the bank that are taken": lambda entry: f"{100 * mean(entry['full']):.0f} %",
    "positives of an anchor in the batch": lambda entry: f"{entry['positives_in_batch']:.0f}",
    "and in the bank": lambda entry: f"{entry['positives_in_bank']:.0f}",
    "share of Z that is the bank's": share("share_of_Z"),
    "gradient of the rows with the bank, over that without": share("gradient", "gradient_without_bank"),
    "of it the rows' part as contrast rows": share("gradient_as_contrast_rows", "gradient"),
    "without the bank": share("gradient_without_bank_as_contrast_rows", "gradient_without_bank"),
    "cosine of the two gradients": lambda entry: f"{entry['cosine_of_both']:.2f}",
    "hardest tenth of the negatives: within a pixel of a boundary": share("hardest_negatives_within_1"),
    "all negatives": share("all_negatives_within_1"),
    "hardest tenth of the negatives: taken for the anchor's class": share("hardest_negatives_confused"),
    "all negatives, taken for it": share("all_negatives_confused"),
    "hardest tenth of the positives: taken for another class": share("hardest_positives_confused"),
    "all positives, taken for another": share("all_positives_confused"),
    "positives that mining keeps": share("mining_keeps_positives"),
    "negatives that mining keeps": share("mining_keeps_negatives"),
    "share of Z that these are": share("mining_keeps_of_Z"),
}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command-line.md").write_text(command_line(), encoding="utf-8")
    contributing = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("(ARCHITECTURE.md)", "(architecture.md)")
    )
    (folder / "contributing.md").write_text(contributing, encoding="utf-8")
    examples = [included(example(path), folder.name) for path in sorted((ROOT / "examples").glob("*.py"))]
    (folder / "examples.md").write_text("\n".join(examples), encoding="utf-8")
    (folder / "benchmarks.md").write_text(benchmarks(folder), encoding="utf-8")
    (folder / "evidence.md").write_text(evidence(), encoding="utf-8")
    (folder / "ccp.md").write_text(scores(STUDIES / "ccp"), encoding="utf-8")
    (folder / "bank-probe.md").write_text(probe(STUDIES / "bank_probe.json"), encoding="utf-8")
    (folder / "bank-probe-early.md").write_text(
        probe(STUDIES / "bank_probe_early.json", drift_alone=True), encoding="utf-8"
    )
    for results, name in (
        (STUDIES / "camvid", "study-camvid"),
        (CAMVID, "camvid"),
        (CAMVID / "gpu", "camvid-gpu"),
        (CAMVID / "long", "camvid-long"),
    ):
        (folder / f"{name}.md").write_text(camvid(results), encoding="utf-8")
        if results.is_relative_to(CAMVID) and (results / "variants").exists():
            (folder / f"{name}-variants.md").write_text(variants(results), encoding="utf-8")
    (folder / "study-camvid-variants.md").write_text(candidates(STUDIES / "camvid_candidates.toml"), encoding="utf-8")
