"""A run trained anywhere is found everywhere: in a cell, on the dashboard, in a sweep, on the command line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import StrangeFile, home
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.lanes import train_lanes
from sparsity_lab.runs.pool import Pool
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.sweep import missing, sweep
from sparsity_lab.runs.worker import train_in_pool
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training, train
from sparsity_lab.widgets.session import Session
from tests.sweeps import SPEED

Pair = tuple[ModelConfig, RunConfig]


@pytest.fixture
def pair(model: ModelConfig, run: RunConfig) -> Pair:
    return model, run


@pytest.fixture
def record(pair: Pair) -> Record:
    *_, record = train(*pair)
    return record


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on training fails the test, here and in a worker."""
    forbid_training(monkeypatch)


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Pool.submit

    def watched(pool: Pool, function: Any, *arguments: Any, **options: Any) -> Any:
        assert function not in (train_lanes, train_in_pool), "it is trained again"
        return submit(pool, function, *arguments, **options)

    monkeypatch.setattr(Pool, "submit", watched)
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("it is trained again"))


def on_dashboard(pair: Pair) -> Record:
    session = Session()
    session.start([pair])
    assert session.wait(60)
    assert session.state == "idle", session.message
    record = session.lanes[0].record
    assert record is not None
    return record


def in_cell(pair: Pair) -> Record:
    record = run_all([pair])["record"][0]
    assert isinstance(record, Record)
    return record


def in_sweep(pair: Pair, folder: Path) -> Record:
    assert sweep([pair], folder, workers=1, speed=SPEED, report=lambda progress: None).done == 1
    (record,) = RunStore(folder).load()
    return record


def on_command_line(pair: Pair, capsys: pytest.CaptureFixture[str]) -> Record:
    from sparsity_lab.cli.main import main

    model, run = pair
    capsys.readouterr()
    words = [
        "train",
        "--width",
        model.d_model,
        "--sparsity",
        model.sparsity,
        "--budget",
        run.budget,
        "--seed",
        run.seed,
    ]
    words += ["--corpus", run.corpus, "--batch-size", run.batch_size or 4, "--json"]
    assert main(list(map(str, words))) == 0
    return Record.from_json(capsys.readouterr().out)


PLACES = ("dashboard", "cell", "sweep", "command line")


@pytest.mark.parametrize("second", PLACES)
@pytest.mark.parametrize("first", PLACES)
def test_what_is_trained_in_one_place_is_not_trained_again_in_another(
    first: str,
    second: str,
    run: RunConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = ModelConfig.on_dial(8, 0.75), RunConfig(budget=1e8, corpus=run.corpus, batch_size=4, eval_tokens=131_072)

    def trained(place: str, folder: Path) -> Record:
        if place == "dashboard":
            return on_dashboard(pair)
        if place == "cell":
            return in_cell(pair)
        return in_sweep(pair, folder) if place == "sweep" else on_command_line(pair, capsys)

    one = trained(first, tmp_path / "one")
    forbid_training(monkeypatch)
    other = trained(second, tmp_path / "other")
    assert other == one, "also the seconds that it took"
    assert [path.stem for path in (home() / "runs").glob("*.json")] == [one.id]


def test_the_command_line_trains_anew_if_asked(run: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    from sparsity_lab.cli.main import main

    words = ["train", "--width", "8", "--budget", "1e8", "--corpus", run.corpus, "--json"]
    assert main(words) == 0
    first = capsys.readouterr().out
    path = next((home() / "runs").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1234.5}))
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == 1234.5
    assert main([*words, "--again"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"] != 1234.5
    assert again["val_loss"] == json.loads(first)["val_loss"]


def test_records_of_older_dashboards_are_found(pair: Pair, record: Record) -> None:
    RunStore(home() / "live").save(record)
    assert in_cell(pair) == record
    assert on_dashboard(pair) == record
    assert missing([pair], home() / "elsewhere") == []
    assert user_store().load() == [record]
    assert user_store().read(record.id) == record


def test_a_finished_record_stays_when_the_run_is_stopped_later(pair: Pair, record: Record, tmp_path: Path) -> None:
    from dataclasses import replace

    store = RunStore(tmp_path / "runs")
    store.save(replace(record, status="stopped", val_loss=None))
    assert store.finished(*pair, record.corpus["fingerprint"]) is None
    scored = replace(record, scores={"recall": 0.5})
    store.save(scored)
    store.save(replace(record, status="stopped", val_loss=None))
    assert store.load() == [scored]
    store.save(replace(record, seconds=99.0))
    assert store.load() == [replace(scored, seconds=99.0)], "its scores stay too"


def test_the_dashboard_shows_what_it_was_asked_for_and_clear_loses_nothing(pair: Pair, record: Record) -> None:
    user_store().save(record)
    assert Session().records == [], "a cell may have trained hundreds of runs"
    assert on_dashboard(pair) == record
    session = Session()
    assert session.records == [record], "in the next kernel too"
    session.clear()
    assert session.records == Session().records == []
    assert user_store().finished(*pair, load_corpus(pair[1].corpus).fingerprint) == record


TORN = ["", "{", "[[[", '{"a": 1}', "[1, null]", "7", "[" * 100_000, '{"runs": null}', '{"runs": [], "names": []}']


@pytest.mark.parametrize("torn", [*TORN, '{"runs": 7, "names": {"a": 1}}', '{"runs": [["a"]], "names": {"b": null}}'])
def test_a_list_of_shown_runs_that_is_not_understood(torn: str, record: Record) -> None:
    RunStore(home() / "live").save(record)
    assert Session().records == [record], "as older dashboards left them"
    (home() / "dashboard.json").write_text(torn)
    session = Session()
    assert session.records in ([], [record])
    session.rename(record.id, "mine")
    assert Session().names[record.id] == "mine", "and it can be written again"


def test_a_list_of_shown_runs_as_older_dashboards_wrote_it(record: Record) -> None:
    user_store().save(record)
    (home() / "dashboard.json").write_text(json.dumps([record.id]))
    session = Session()
    assert session.records == [record]
    assert session.names == {}


def test_names_are_kept_in_a_later_kernel(pair: Pair, record: Record) -> None:
    user_store().save(record)
    on_dashboard(pair)
    session = Session()
    session.rename(record.id, "  my first run  ")
    session.rename("another", "x" * 200)
    later = Session()
    assert later.records == [record]
    assert later.names[record.id] == "my first run"
    assert 0 < len(later.names["another"]) <= 40
    later.rename(record.id, " ")
    assert Session().names.keys() == {"another"}
    assert Session().records == [record], "the run itself stays"


def test_a_checkpoint_that_does_not_fit_stops_nobody(pair: Pair) -> None:
    """The run is trained all the same, in a cell and on the dashboard, which say what became of the file."""
    for number, make in enumerate([os.mkfifo, Path.touch, Path.mkdir, lambda path: path.write_text("{")]):
        seed = pair[1].replace(seed=number)
        for folder in (home() / "checkpoints", home() / "runs" / "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
            make(folder / f"{run_id(pair[0], seed)}.safetensors")
        session = Session()
        assert session.interrupted() is None
        session.start([(pair[0], seed)])
        assert session.wait(60)
        assert session.state == "idle", session.message
        assert "the run starts anew. Sparsity 0.75: finished" in session.lanes[0].message

        (home() / "runs" / f"{run_id(pair[0], seed)}.json").unlink()
        with pytest.warns(StrangeFile, match="and the run starts anew"):
            assert run_all([(pair[0], seed)])["status"].tolist() == ["finished"]
