"""What caching saves, by arithmetic; and which cuts are looked at and proposed."""

from __future__ import annotations

import pytest

from fmshards.model import cuts, load_model
from fmshards.planning.choice import sensible
from fmshards.planning.worth import Seconds, worth
from tests.extraction.conftest import MODEL, WEIGHTS

TOOK = Seconds(image=0.002, prefix=0.008, suffix=0.001, encode=0.001, decode=0.001, mirror=0.0)


def test_bytes_bandwidth_and_epochs_are_those_of_the_measurements() -> None:
    found = worth(1000, 1.0, 4000, 500, 10**9, TOOK, 200.0)
    assert found.bytes == 2000
    assert found.of_photo == 0.5
    assert found.total == 1e6
    assert found.bandwidth == 200_000, "an epoch reads base or mirror of a sample"
    assert found.flops_saved == 5e11
    assert found.seconds_saved == pytest.approx(500 * (0.010 - 0.001))
    # Extraction: the image once, the prefix and the encoder twice; each epoch saves 9 ms a sample.
    assert found.pays_after == 0.020 // 0.009 + 1 == 3


def test_a_mapped_mirror_costs_every_other_sample() -> None:
    took = Seconds(**{**vars(TOOK), "mirror": 0.004})
    assert worth(1000, 0, None, 500, 1, took, None).seconds_saved == pytest.approx(500 * (0.010 - 0.003))


def test_where_caching_never_pays_it_says_so_and_why() -> None:
    took = Seconds(image=0.0002, prefix=0.0003, suffix=0.001, encode=0.001, decode=0.002, mirror=0.0)
    found = worth(9000, 0.0, 1000, 500, 10**6, took, None)
    assert found.pays_after is None
    assert found.seconds_saved is not None
    assert found.seconds_saved < 0
    assert "does not pay" in found.why
    assert "9.0 times" in found.why


def test_the_speed_is_that_of_a_trainer_or_of_a_step_here() -> None:
    assert worth(1000, 0, None, None, 1, TOOK, None).speed == pytest.approx(1 / (0.001 + 3 * 0.001))
    unknown = worth(1000, 0, None, None, 1, TOOK, None)
    assert unknown.total is unknown.flops_saved is unknown.seconds_saved is unknown.of_photo is None


def test_cuts_that_are_looked_at_are_spread_over_the_network_and_unwarned() -> None:
    found = sensible(cuts(load_model(MODEL, WEIGHTS)))
    shares = [cut.flops_before / (cut.flops_before + cut.flops_after) for cut in found]
    assert 2 <= len(found) <= 4
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.4
    assert all(cut.problem is None and not cut.warnings for cut in found)
