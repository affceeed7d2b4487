"""What a study asks for: its file, its trainings, and whose first iterations they share."""

from pathlib import Path

import pytest
import torch

from fastpixcon.training import TrainingError, config, rehearsal, study
from fastpixcon.training.criteria import contrast_loss
from fastpixcon.training.processes import Processes

STUDIES = Path(__file__).resolve().parents[2] / "bench" / "studies"
TEXT = """
name = "mine"
config = "camvid"
seeds = [0, 3]
set = ["schedule.epochs=1"]
data = "somewhere"
"""


def jobs(folder: Path, more: str = "") -> dict[str, study.Job]:
    file = folder / "mine.toml"
    file.write_text(TEXT + more)
    return {job.name: job for job in study.jobs(study.read(file))}


def test_a_training_a_seed_then_the_variants(tmp_path: Path) -> None:
    more = """
    [variants.max_views-7]
    arm = "ce+contrast"
    set = ["contrast.max_views=7", "schedule.epochs=2"]
    seeds = [3]
    [variants.memory]
    arm = "ce+contrast+memory"
    """
    found = jobs(tmp_path, more)
    names = ["max_views-7-seed-3", "memory-seed-0", "memory-seed-3"]
    assert list(found) == ["seed-0", "seed-3", *(f"variants/{name}" for name in names)]
    first, variant = found["seed-3"].config, found["variants/max_views-7-seed-3"].config
    assert (first.seed, first.arms, first.data.root) == (3, ("ce", "ce+contrast"), "somewhere")
    assert (first.schedule.epochs, variant.schedule.epochs) == (1, 2)
    assert (variant.arms, variant.contrast.max_views) == (("ce+contrast",), 7)
    assert found["variants/memory-seed-0"].config.arms == ("ce+contrast+memory",)


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ("contrast.max_views=7", True),
        ("memory.pixel_size=7", True),
        ("contrast.warmup=7", False),
        ("schedule.learning_rate=1.0", False),
        ("model.embedding_channels=7", False),
    ],
)
def test_first_iterations_are_shared_where_nothing_of_them_differs(tmp_path: Path, changes: str, shares: bool) -> None:
    found = jobs(tmp_path, f'[variants.other]\narm = "ce+contrast+memory"\nset = ["{changes}"]')
    assert found["variants/other-seed-3"].first == ("seed-3" if shares else "")


def test_no_first_iterations_are_left_by_an_arm_alone(tmp_path: Path) -> None:
    assert jobs(tmp_path, 'arms = ["ce"]\n[variants.other]\narm = "ce+contrast"')["variants/other-seed-0"].first == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sedes = [1]", "sedes: unknown key"),
        ('[variants.a]\narm = "contrast"', r"variants\.a\.arm: got 'contrast'"),
        ('[variants.a]\narm = "ce"\nseeds = [0, 7]', r"variants\.a\.seeds: got \[7\], want some of \[0, 3\]"),
        ('[variants.ce]\narm = "ce"', "variants: got ce, which is an arm of the study"),
        ('[variants."a b"]\narm = "ce"', "variants"),
        ('arms = ["ce", "ce"]', r"arms: got \['ce', 'ce'\], want each once"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        jobs(tmp_path, more)


def test_configs_that_a_study_can_not_have(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for name, message in (("folder", "whose settings the pictures decide"), ("nowhere", "got 'nowhere', want a TOML")):
        file.write_text(TEXT.replace('"camvid"', f'"{name}"'))
        with pytest.raises(TrainingError, match=message):
            _ = [job.config for job in study.jobs(study.read(file))]
    with pytest.raises(TrainingError, match="no such file, want a TOML file that says what is to be trained"):
        study.read(tmp_path / "other.toml")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_studies_here_are_of_configs_of_the_package(file: Path) -> None:
    found = study.read(file)
    wanted = study.jobs(found)
    assert found.config in config.shipped()
    assert all(job.config.precision == "fp32" for job in wanted)
    assert all(job.first for job in wanted if job.variant)  # their first iterations are trained once


def test_the_contrast_of_every_candidate_can_be_computed() -> None:
    candidates = [job for job in study.jobs(study.read(STUDIES / "camvid_candidates.toml")) if job.config.seed == 2]
    assert len(candidates) > 10
    for job in candidates:
        rehearsal._check_contrast(job.config, 11, torch.device("cpu"))


def test_what_anchors_meet_is_said_of_the_arms_with_memory() -> None:
    settings = config.load("camvid", ["memory.contrast_with=memory"])
    found = [
        contrast_loss(settings, arm, 11, torch.device("cpu"), Processes())
        for arm in ("ce+contrast", "ce+contrast+memory")
    ]
    assert [loss.contrast_with for loss in found if loss] == ["both", "memory"]


def test_candidates_are_compared_with_the_arms_of_the_study() -> None:
    arms = {job.name: job.config for job in study.jobs(study.read(STUDIES / "camvid.toml"))}
    candidates = study.read(STUDIES / "camvid_candidates.toml")
    assert (candidates.name, candidates.results) == ("study-camvid", "bench/studies/camvid")
    for job in study.jobs(candidates):
        if not job.variant:
            assert job.config == arms[job.name]
