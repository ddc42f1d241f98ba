"""Which images a set is calibrated on, and how many where nobody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmshards.extraction import extract
from fmshards.extraction.calibration_images import calibration_images, sample_count
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import open_source
from fmshards.model import parse_preprocess
from fmshards.shards import read_plan
from tests.extraction.conftest import TRAIN, members_of, options, write_tar


def without_calibration() -> dict[str, Any]:
    return {name: value for name, value in options().items() if name != "calibration"}


def test_a_tar_is_as_long_as_its_first_samples_make_it(tars: list[str], tmp_path: Path) -> None:
    assert sample_count(open_source([(image, 0) for image in range(7)])) == 7
    assert abs(sample_count(open_source(tars)) - 104) <= 15
    many = write_tar(tmp_path / "many.tar", members_of(TRAIN[0], range(300)))
    assert abs(sample_count(open_source(str(many))) - 300) <= 30


def test_images_are_taken_evenly_from_all_shards(tars: list[str]) -> None:
    decoder = Decoder(open_source(tars), parse_preprocess("normalize(imagenet)"))
    images = calibration_images(decoder, 10)
    assert len(images) == 10
    own = [next(iter(calibration_images(Decoder(open_source(tar), decoder.preprocess), 1))) for tar in tars]
    assert [images[i].tobytes() for i in (0, 3, 6)] == [image.tobytes() for image in own]
    assert len(calibration_images(decoder, 10_000)) == 104


def test_the_default_is_a_part_of_the_set_and_an_older_set_keeps_its_own(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "new", **without_calibration()).plan
    assert plan.options["calibration"] == 16
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    extract(tars[:1], tmp_path / "new", **without_calibration())
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before
    # As the default of 512 was written into plans.
    extract(tars[:1], tmp_path / "old", **options(calibration=512))
    assert extract(tars[:1], tmp_path / "old", **without_calibration()).plan.options["calibration"] == 512
    assert read_plan(str(tmp_path / "old")).options["calibration"] == 512
