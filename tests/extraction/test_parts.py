"""Several processes that make one set: which shards are whose, claims, signals, deaths; always the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmshards.errors import FormatError, InputError, StoppedError, StoreError
from fmshards.extraction import Status, extract, status
from fmshards.extraction import claims as claims_module
from fmshards.extraction.claims import Claims, claims_of
from fmshards.extraction.part import Part, part_of
from fmshards.shards import read_manifest

from .conftest import ROOT, line, options, start, tree

SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", **SLURM}, (3, 8)),
        ({"JOB_COMPLETION_INDEX": "2", "FMSHARDS_PARTS": "5"}, (2, 5)),
        (SLURM, (1, 4)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "4", **SLURM}, (9, 16)),
    ],
)
def test_a_part_is_read_from_the_environment(environ: dict[str, str], expected: tuple[int, int]) -> None:
    found = part_of(None, environ)
    assert (found.index, found.count) == expected
    assert part_of("2/3", environ) == part_of((2, 3), environ) == Part(2, 3, "part")


@pytest.mark.parametrize("part", ["3/3", "0/0", "1", "a/b", "-1/2", (1,), (0.0, 2), 3])
def test_what_is_no_part(part: object) -> None:
    with pytest.raises(InputError, match="part"):
        part_of(part, {})


def test_an_environment_that_cannot_be() -> None:
    for environ, words in (
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'.*--part I/N"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK: part 2 of 2 cannot be"),
        ({"JOB_COMPLETION_INDEX": "2"}, "FMSHARDS_PARTS"),
    ):
        with pytest.raises(InputError, match=words):
            part_of(None, environ)


@given(st.integers(0, 60), st.integers(1, 70), st.data())
def test_parts_own_each_shard_once_and_end_with_all(n: int, count: int, data: st.DataObject) -> None:
    parts = [Part(i, count) for i in range(count)]
    assert sorted(i for part in parts for i in part.own(n)) == list(range(n))
    assert max(len(part.own(n)) for part in parts) - min(len(part.own(n)) for part in parts) <= 1
    part = data.draw(st.sampled_from(parts))
    order = list(part.order(n))
    assert sorted(order) == list(range(n))
    assert order[: len(part.own(n))] == list(part.own(n))


def test_one_of_two_has_a_claim_until_it_gives_it_back(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Claims(url, Part(0, 2)) as ours, Claims(url, Part(1, 2)) as theirs:
        assert ours.take("a")
        assert not theirs.take("a")
        assert theirs.take("b")
        assert {(claim.name, claim.part) for claim in claims_of(url)} == {("a", "0/2"), ("b", "1/2")}
        ours.give_back("a")
        assert theirs.take("a")
    assert claims_of(url) == []
    assert tree(tmp_path) == {}
    with Claims(url, Part()) as alone:
        assert alone.take("a")
        assert tree(tmp_path) == {}


def test_a_claim_that_nobody_renews_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder runs on another machine, so that nothing but time tells that it is no more."""
    url, now = str(tmp_path), [100.0]
    monkeypatch.setattr(claims_module, "_space", lambda: "elsewhere")
    gone = Claims(url, Part(0, 2))  # not entered: it never renews
    assert gone.take("a")
    monkeypatch.setattr(claims_module, "_space", lambda: "here")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ours = Claims(url, Part(1, 2))
    assert not ours.take("a")
    now[0] += claims_module.LEASE - 1
    assert not ours.take("a")
    monkeypatch.setattr(claims_module, "_space", lambda: "elsewhere")
    claims_module.store.put(f"{url}/.claim-a", gone._claim())  # it was slow
    monkeypatch.setattr(claims_module, "_space", lambda: "here")
    now[0] += 2
    assert not ours.take("a")
    now[0] += claims_module.LEASE + 1
    assert ours.take("a")
    again = Claims(url, Part(1, 2))
    assert again.take("a")  # started anew, a part has what it had


def test_a_claim_of_a_process_that_died_here_is_taken_at_once(tmp_path: Path) -> None:
    url = str(tmp_path)
    code = f"from fmshards.extraction.claims import *; Claims({url!r}, Part(0, 2)).take('a')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert [claim.gone for claim in claims_of(url)] == [True]
    assert Claims(url, Part(1, 2)).take("a")


def test_a_claim_that_cannot_be_given_back_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was for is done all the same."""

    def refused(url: str) -> None:
        raise StoreError(f"cannot remove {url}")

    monkeypatch.setattr(claims_module.store, "remove", refused)
    with Claims(str(tmp_path), Part(0, 2)) as ours:
        assert ours.take("a")
        assert ours.take("b")
        ours.give_back("a")
    claims_module.remove_claims(str(tmp_path))
    assert {claim.name for claim in claims_of(str(tmp_path))} == {"a", "b"}


def test_while_a_part_calibrates_there_is_no_plan(tmp_path: Path) -> None:
    url = str(tmp_path)
    with pytest.raises(FormatError, match="no shard set here"):
        status(url)
    with Claims(url, Part(0, 2)) as ours:
        ours.take("plan.json")
        found = status(url)
    assert (found.inputs, found.done, found.whole, found.stale) == (0, 0, False, ())
    assert [(claim.name, claim.part) for claim in found.running] == [("plan.json", "0/2")]


def test_two_parts_share_the_work(eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "set"
    both = [start(eight, out, RANK=str(i), WORLD_SIZE="2") for i in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert tree(out) == alone
    assert "part 0/2 (RANK): shards 000000 to 000003 first" in said[0]
    assert "part 1/2 (RANK): shards 000004 to 000007 first" in said[1]
    made = [int(text.split(" samples in ")[0].split("\n")[-1].replace(",", "")) for text in said]
    assert sum(made) == 240, said  # nothing twice


def test_a_part_alone_makes_all(eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    assert start(eight, tmp_path / "set", "--part", "2/3").wait(300) == 0
    assert tree(tmp_path / "set") == alone


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_parts_that_are_killed_and_started_anew(
    eight: list[str], alone: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """One of two at a time, at any moment; the other goes on with what it had."""
    out, draw = tmp_path / "set", random.Random(seed)
    parts = [start(eight, out, "--part", f"{i}/2") for i in range(2)]
    for _ in range(4):
        which = draw.randrange(2)
        at_work = f'"part": "{which}/2"'.encode()  # in a claim
        while parts[which].poll() is None and not any(at_work in data for data in peeked(out)):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        parts[which].kill()
        parts[which].communicate()
        parts[which] = start(eight, out, "--part", f"{which}/2")
    said = [process.communicate(timeout=300)[1] for process in parts]
    assert [process.returncode for process in parts] == [0, 0], said
    assert tree(out) == alone


def peeked(out: Path) -> list[bytes]:
    """What claims say, but for those that go at this moment."""
    found = []
    for path in out.glob(".claim-*"):
        with suppress(FileNotFoundError):
            found.append(path.read_bytes())
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("to", ["the process", "all of its processes"])
def test_a_signal_ends_the_shard_in_work_and_no_other_is_begun(
    eight: list[str], alone: dict[str, bytes], tmp_path: Path, number: signal.Signals, to: str
) -> None:
    out = tmp_path / "set"
    process = start(eight, out, "--workers", "1")
    until_shards(process, out, 2)
    if to == "the process":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert f"{number.name}: no shard is begun any more; 25 s" in said
    assert "of its 8 input shards are still to be made; run the same again" in said
    left = tree(out)
    assert {name: data for name, data in alone.items() if name in left} == left
    assert start(eight, out).wait(300) == 0
    assert tree(out) == alone


def test_without_grace_the_shard_in_work_is_left(eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = start(eight, out, "--grace", "0")
    until_shards(process, out, 1)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert "was not ended within 0 seconds (--grace)" in said
    assert "Traceback" not in said
    left = tree(out)
    assert {name: data for name, data in alone.items() if name in left} == left


def until_shards(process: subprocess.Popen[str], out: Path, count: int) -> None:
    while process.poll() is None and len(list(out.glob("layer2/0*.tar"))) < count:
        time.sleep(0.005)


def test_a_function_is_asked_to_stop(tars: list[str], tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(StoppedError, match="2 of its 3 input shards are still to be made"):
        extract(tars, tmp_path / "set", **options(), stop=stop)
    assert [path.name for path in tmp_path.glob("set/layer2/*")] == ["000000.tar"]
    assert extract(tars, tmp_path / "set", **options()) == read_manifest(str(tmp_path / "set"))


def test_how_far_a_set_is(eight: list[str], tmp_path: Path) -> None:
    """Seen from outside: while it runs, after a kill, and when it is whole."""
    out = tmp_path / "set"
    process = start(eight, out, "--part", "1/2")
    until_shards(process, out, 1)
    process.send_signal(signal.SIGSTOP)
    found = status(str(out))
    assert (found.inputs, found.whole) == (8, False)
    assert {claim.part for claim in found.running} == {"1/2"}
    assert found.stale == ()
    assert found.done + len({claim.name for claim in found.running} | set(found.missing)) == 8
    assert "000000" in found.missing
    process.kill()
    process.communicate()
    found = status(str(out))
    assert found.running == ()
    assert len(found.stale) >= 1
    said = subprocess.run(
        [sys.executable, "-m", "fmshards", "status", str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert said.returncode == 75, said.stderr
    assert f"{found.done} of 8 input shards done" in said.stdout
    assert "  stale: " in said.stdout
    assert start(eight, out, "--part", "0/2").wait(300) == 0
    assert status(str(out)) == Status(str(out), 8, 8, (), (), (), whole=True)
    assert subprocess.run([sys.executable, "-m", "fmshards", "status", str(out), "--json"], cwd=ROOT).returncode == 0


def test_parts_do_not_overwrite(tars: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"each part would remove what the others have made.*--part 0/1"):
        extract(tars, tmp_path / "set", **options(), overwrite=True, part="0/2")


@pytest.mark.slow
def test_torchrun_starts_two(eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    """The same line, by torchrun, which says in the environment which of them each is."""
    out = tmp_path / "set"
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "fmshards",
    ]
    subprocess.run([*torchrun, *line(eight, out)], cwd=ROOT, check=True, timeout=300, capture_output=True)
    assert tree(out) == alone
