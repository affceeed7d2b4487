"""What bench/camvid/ has is what the README says, and of the config that the package has."""

from pathlib import Path

import pytest

from fastpixcon.training import config, seeds

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "bench" / "camvid").glob("seed-*.json"))


def test_the_readme_has_the_table_of_the_files() -> None:
    table = seeds.markdown(seeds.compare([seeds.read(file) for file in FILES]))
    assert table in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_config_is_that_of_the_package(file: Path) -> None:
    ran = config.parse(seeds.read(file)["config"])
    here = {"seed", "data.root", "arms", "device", "precision"}
    assert set(config.differences(ran, config.load("camvid"))) <= here
    assert file.stem == f"seed-{ran.seed}"
