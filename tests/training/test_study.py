"""What bench/camvid/ has is what its page says, and of the config that the package has."""

from pathlib import Path

import pytest

from fastpixcon.training import config, seeds

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "bench" / "camvid"
VARIANTS = STUDY / "variants"


@pytest.mark.parametrize("variant", ["max_views-100", "max_views-100-min_pixels-20"])
def test_the_page_has_the_gains_with_more_views(variant: str) -> None:
    gains = []
    for number in range(3):
        without = seeds.read(VARIANTS.parent / f"seed-{number}.json")["arms"]["ce"]
        with_more = seeds.read(VARIANTS / f"{variant}-seed-{number}.json")["arms"]["ce+contrast"]
        gains.append(f"{100 * (with_more['miou'] - without['miou']):+.2f}")
    assert ", ".join(gains) in (ROOT / "docs" / "evidence.md").read_text()


@pytest.mark.parametrize("file", sorted(STUDY.glob("**/variants/*.json")), ids=lambda file: file.stem)
def test_a_variant_is_named_by_its_settings(file: Path) -> None:
    ran = config.parse(seeds.read(file)["config"])
    study = config.parse(seeds.read(file.parents[1] / f"seed-{ran.seed}.json")["config"])
    changed = set(config.differences(ran, study)) - {"arms"}
    names = sorted(key.removeprefix("contrast.") for key in changed)
    settings = "-".join(f"{name}-{config.to_tree(ran)['contrast'][name]}" for name in names)
    assert file.stem == f"{settings}-seed-{ran.seed}"


@pytest.mark.parametrize(
    "file", sorted(STUDY.glob("**/seed-*.json")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_the_config_is_that_of_the_package(file: Path) -> None:
    ran = config.parse(seeds.read(file)["config"])
    here = {"name", "seed", "data.root", "data.workers", "arms", "device", "precision"}
    package = config.load("camvid_long" if file.parent.name == "long" else "camvid")
    assert set(config.differences(ran, package)) <= here
    assert file.stem == f"seed-{ran.seed}"
