"""Sweeps: each run once, the longest first, the same records wherever they are trained."""

import errno
import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.record import run_id
from sparsity_lab.runs import cluster
from sparsity_lab.runs import sweep as sweeps
from sparsity_lab.runs.provenance import FILE, write_provenance
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import CURVE_POINTS, Bar, Progress, estimate, missing, sweep
from sparsity_lab.training.trainer import Training
from tests.sweeps import SPEED, Trainings, content, contents, options_here, pairs_of, swept, trained_here


@pytest.fixture(params=["pool", "cluster"])
def here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Options with which the one worker of a sweep is a thread of this process."""
    yield from options_here(request.param, monkeypatch)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture
def run(run: RunConfig) -> RunConfig:
    """Some ten steps."""
    return run.replace(budget=2e7)


# ---- What a sweep leaves behind


def test_each_run_once_and_as_if_trained_alone(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    pairs = pairs_of(model, run, 3)
    same = pairs[1][0], pairs[1][1].replace(batch_size=run.sequences)  # what the lab chooses anyway
    progress = swept([*pairs, pairs[0], same], tmp_path / "runs", **here)
    assert progress == Progress(total=3, done=3, failed=0, share=1.0, seconds_left=0.0)
    assert trainings.begun == [(seed, 0) for seed in range(3)]
    assert contents(tmp_path / "runs") == {pair[1].seed: content(trained_here(*pair)) for pair in pairs}
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == sorted(
        [*(f"{run_id(*pair)}.json" for pair in pairs), "checkpoints"]
    )
    assert list((tmp_path / "runs" / "checkpoints").iterdir()) == []
    begun = len(trainings.begun)
    nobody = {"scheduler": "tcp://nobody.invalid:1"} if here else here
    assert swept(pairs, tmp_path / "runs", **nobody).done == 3, "nothing is left to ask for"
    assert len(trainings.begun) == begun


def test_longest_first_and_progress_only_grows(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    budgets = [1e7, 3e7, 2e7]
    pairs = [(model, run.replace(budget=budget, seed=seed)) for seed, budget in enumerate(budgets)]
    seen: list[Progress] = []
    expected = estimate(pairs, tmp_path, 1, SPEED).seconds
    swept(pairs, tmp_path, **here, report=seen.append)
    assert [seed for seed, _ in trainings.begun] == [1, 2, 0]
    for name in ("done", "share"):
        values = [getattr(progress, name) for progress in seen]
        assert values == sorted(values)
    assert seen[0] == Progress(3, 0, 0, 0.0, seen[0].seconds_left)
    assert seen[0].seconds_left == pytest.approx(expected)
    assert seen[-1] == Progress(3, 3, 0, 1.0, 0.0)
    assert any(0 < progress.share < 1 for progress in seen)


def test_late_news_of_a_run_that_is_done(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    pairs = pairs_of(model, run, 2)
    state = sweeps._State(pairs, 2, [1.0, 3.0], tmp_path)
    (second, first), seconds = (run_id(*pair) for pair in pairs), state.progress
    state.hear(first, 0.5)
    assert seconds().share == 3 * 0.5 / 4
    state.hear(first, 0.2)  # its worker died, and it began again
    assert seconds().share == 3 * 0.5 / 4
    state.done(pairs[1])
    state.hear(first, 0.9)
    assert (seconds().share, seconds().done) == (0.75, 1)
    state.hear(second, 0.5)
    assert seconds().share == (3 + 0.5) / 4


@pytest.mark.parametrize("kind", ["vocabulary", "corpus"])
def test_a_run_that_cannot_be_trained_is_recorded_and_tried_anew(
    kind: str,
    model: ModelConfig,
    run: RunConfig,
    tmp_path: Path,
    here: dict[str, str],
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = (model, run.replace(budget=1e7))
    if kind == "vocabulary":
        bad, error = (
            (model.replace(vocab_size=64), run),
            "ValueError: vocab_size=64 is too small for the corpus: use 256",
        )
    else:
        bad, error = (model, run.replace(seed=7)), "ZeroDivisionError: once"

        def faulty(training: Training) -> None:
            if training.run_config.seed == 7:
                raise ZeroDivisionError("once\nand more")

        trainings.at_step = faulty
    assert swept([bad, good], tmp_path, **here) == Progress(2, 1, 1, 1.0, 0.0)
    record = next(record for record in RunStore(tmp_path).load() if record.status == "failed")
    assert record.error == error
    assert record.summary() == f"Sparsity 0.75: failed; {error}"
    assert (record.val_loss, record.model, record.params_total > 0) == (None, bad[0].to_dict(), True)
    assert missing([bad, good], tmp_path) == [bad]
    if kind == "corpus":
        trainings.at_step = lambda training: None
        assert swept([bad, good], tmp_path, **here) == Progress(2, 2, 0, 1.0, 0.0)
        assert {record.status for record in RunStore(tmp_path).load()} == {"finished"}


def test_a_diverged_run_is_done(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    def spoil(training: Training) -> None:
        for weight in training.model.parameters():
            weight.data.fill_(float("nan"))

    trainings.at_step = spoil
    assert swept([(model, run)], tmp_path, **here) == Progress(1, 1, 0, 1.0, 0.0)
    assert [record.status for record in RunStore(tmp_path).load()] == ["diverged"]
    assert missing([(model, run)], tmp_path) == []


def test_a_worker_with_another_disk_sends_its_record(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    """Also where an unfinished record, or half of one, is in its place."""
    pair = (model, run)
    sent, store = trained_here(*pair), RunStore(tmp_path)
    for before in (None, "failed", "torn"):
        if before == "failed":
            store.save(sweeps.failed_record(pair, "too little memory"))
        elif before == "torn":
            store.path(*pair).write_text(sent.to_json()[:99])
        state = sweeps._State([pair], 1, [1.0], tmp_path)
        with pytest.warns(UserWarning, match="skipped") if before == "torn" else nullcontext():
            sweeps._keep(pair, sent, state)
        assert store.load() == [sent]
        assert state.progress().done == 1


def test_a_failure_does_not_replace_what_another_sweep_finished(
    model: ModelConfig, run: RunConfig, tmp_path: Path
) -> None:
    done = trained_here(model, run)
    RunStore(tmp_path).save(done)
    state = sweeps._State([(model, run)], 1, [1.0], tmp_path)
    sweeps._keep((model, run), MemoryError(), state)
    assert RunStore(tmp_path).load() == [done]
    assert state.progress() == Progress(1, 1, 0, 1.0, 0.0)


def test_a_full_disk_is_told_as_such(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    state = sweeps._State([(model, run)], 1, [1.0], tmp_path)
    with pytest.raises(OSError, match="make room and start the sweep again; nothing finished is lost") as error:
        sweeps._keep((model, run), OSError(errno.ENOSPC, "full"), state)
    assert error.value.errno == errno.ENOSPC
    assert state.progress().done == 0


def test_what_lies_in_the_folder_is_not_trained_again(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    """Also where the user's own store is empty, as on another machine; and a folder is made, with those above it."""
    folder = tmp_path / "some" / "where"
    assert swept([(model, run)], folder, **here).done == 1
    trainings.begun.clear()
    shutil.rmtree(tmp_path / "home")
    assert swept([(model, run)], folder, **here).done == 1
    assert trainings.begun == []


# ---- Before it starts


def test_missing_is_what_no_finished_record_of_this_text_is_of(
    model: ModelConfig, run: RunConfig, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} and {i * 7}\n" for i in range(9_000)))
    pairs = pairs_of(model, run.replace(corpus=str(text)), 2)
    assert missing(pairs, tmp_path / "nowhere") == pairs
    RunStore(tmp_path).save(trained_here(*pairs[0]))
    assert missing(pairs, tmp_path) == [pairs[1]]
    text.write_text("".join(f"{i} or {i * 7}\n" for i in range(9_000)))
    assert missing(pairs, tmp_path) == pairs


@given(workers=st.integers(1, 100), budgets=st.lists(st.floats(1e8, 1e12), max_size=5))
def test_an_estimate_adds_up(workers: int, budgets: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, corpus = _nothing(tmp_path_factory)
    pairs = [(ModelConfig.on_dial(8, 0.75), RunConfig(budget=b, corpus=corpus, seed=i)) for i, b in enumerate(budgets)]
    found = estimate(pairs, folder, workers, SPEED)
    alone = [estimate([pair], folder, 1, SPEED).seconds for pair in pairs]
    assert found.runs == len(pairs)
    assert found.core_hours * 3600 == pytest.approx(sum(alone))
    assert found.watt_hours == pytest.approx(10 * found.core_hours)
    assert found.seconds == pytest.approx(max([sum(alone) / workers, *alone]))
    for seconds, pair in zip(alone, pairs, strict=True):
        assert seconds > SPEED.seconds(*pair) >= 0.5 * pair[1].budget / 1e9, "training, and a little for the end"
        forward = pair[1].eval_tokens / (resolve(*pair).sequences * pair[0].context) / 3
        assert seconds == pytest.approx(
            SPEED.seconds(*pair) + forward * SPEED.step_seconds(pair[0], resolve(*pair).sequences)
        )


def _nothing(factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = factory.getbasetemp() / "nothing"
    if not folder.exists():
        folder.mkdir()
        (folder / "text.txt").write_text("".join(f"{i} squared is {i * i}\n" for i in range(3_000)))
    return folder, str(folder / "text.txt")


def test_in_words() -> None:
    assert Progress(9, 4, 0, 0.5, 61.0).summary() == "4 of 9 runs done, 1 min 01 s left."
    assert Progress(9, 8, 1, 1.0, 0.0).summary() == "8 of 9 runs done, 1 failed."
    assert sweeps.Estimate(12, 5400.0, 3.0, 30.0).summary() == (
        "12 runs to train: about 1 h 30 min, 3 core hours, 30 Wh at 10 W per core."
    )


def test_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar.close()
    assert capsys.readouterr().err == "", "nothing is drawn before there is something to draw"
    bar = Bar()
    bar(Progress(2, 1, 0, 0.5, 9.0))
    bar(Progress(2, 2, 0, 1.0, 0.0))
    bar.close()
    err = capsys.readouterr().err
    assert " 50%|" in err
    assert "100%|" in err
    assert "1 of 2 runs done, 9 s left." in err
    assert "2 of 2 runs done." in err


def test_nobody_at_the_address(
    model: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_WITHOUT_SCHEDULER", 0.0)
    monkeypatch.setattr(cluster, "Client", lambda address, **options: Client(address, **(options | {"timeout": 0.2})))
    with pytest.raises(TimeoutError, match=r"scheduler='tcp://127.0.0.1:9' does not answer: is it running"):
        swept([(model, run)], tmp_path, scheduler="tcp://127.0.0.1:9")
    assert list(tmp_path.glob(".stop*")) == []


def test_a_budget_below_one_step(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget=1 FLOPs is less than one step"):
        sweep([(model, run.replace(budget=1))], tmp_path, speed=SPEED)


# ---- Where records come from


def test_provenance_is_toml_and_adds_up(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    strange = tmp_path / 'a "quoted" \\ text.txt'
    strange.write_text("".join(f"{i} and {i * 7}\n" for i in range(9_000)))
    store = RunStore(tmp_path / "runs")
    records = [trained_here(*pair) for pair in pairs_of(model, run.replace(corpus=str(strange), budget=1e7), 2)]
    for record in records:
        store.save(record)
    store.save(sweeps.failed_record((model, run), "no memory"))
    write_provenance(store.folder, "sparsity-lab sweep grid.toml --out .")
    values: dict[str, Any] = tomllib.loads((store.folder / FILE).read_text())
    assert values["command"] == "sparsity-lab sweep grid.toml --out ."
    assert (values["runs"], values["runs_finished"], values["runs_failed"]) == (3, 2, 1)
    assert values["flops"] == sum(record.flops for record in records)
    assert values["core_hours"] == round(sum(record.cpu_seconds or 0 for record in records) / 3600, 2)
    assert values["corpora"] == [f"{strange} {records[0].corpus['fingerprint']}"]
    assert {line.split()[0] for line in values["versions"]} == {"sparsity_lab", "torch", "python"}
    assert "cores" in values["machine"]
    assert len(store.load()) == 3, "and is no record itself"


def test_records_are_small(model: ModelConfig, run: RunConfig) -> None:
    record = trained_here(model, run.replace(budget=1.4e8, batch_size=1))
    assert record.steps > 2 * CURVE_POINTS
    assert len(record.curve["loss"]) <= CURVE_POINTS
    assert len(json.dumps(vars(record))) < 6_000
