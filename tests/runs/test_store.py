"""Records on disk: named by what was run, and a damaged or strange file harms none of the others."""

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import StrangeFile, home, write_text
from sparsity_lab.laws.fitting import finished as laws_finished
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.store import RunStore, load_frame, to_frame
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.trainer import Training


@pytest.fixture
def record(model: ModelConfig, run: RunConfig) -> Record:
    training = Training(model, run.replace(budget=2e6))
    training.step()
    return training.record(training.evaluate())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def of_seed(record: Record, seed: int) -> Record:
    return dataclasses.replace(record, seed=seed, run={**record.run, "seed": seed})


# ---- Names

# None of these is the default.
OTHER: dict[str, Any] = {
    "vocab_size": 300,
    "context": 64,
    "d_model": 64,
    "n_layers": 3,
    "n_heads": 4,
    "n_kv_heads": 1,
    "d_head": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_dense_layers": 1,
    "moe_every": 2,
    "d_dense": 97,
    "tied_embeddings": True,
    "qk_norm": "full",
    "attention_bias": "qkv",
    "attention_sinks": True,
    "ffn": "plain",
    "ffn_bias": True,
    "norm": "layer",
    "learned_positions": True,
    "n_encoder_layers": 1,
    "router": "sigmoid",
    "mtp_depth": 1,
    "mtp_weight": 0.1,
    "n_groups": 2,
    "top_groups": 1,
    "route_scale": 2.5,
    "bias_rate": 0.001,
    "window": 8,
    "full_attention_every": 2,
    "d_expert": 97,
    "n_experts": 2,
    "top_k": 2,
    "n_shared_experts": 1,
    "balance_loss": 0.06,
    "z_loss": 0.002,
    "rope_base": 10_001,
    "budget": 1.01e11,
    "batch_size": 5,
    "learning_rate": 0.0123,
    "warmup": 0.06,
    "decay": 0.31,
    "weight_decay": 0.06,
    "grad_clip": 1.1,
    "seed": 1,
    "order_seed": 1,
    "corpus": "standard-library",
    "eval_tokens": 131_073,
    "dtype": "bfloat16",
    "device": "cpu",
    "backend": "naive",
    "threads": 2,
}


@pytest.mark.parametrize("name", [f.name for kind in (ModelConfig, RunConfig) for f in dataclasses.fields(kind)])
def test_every_field_makes_another_run(name: str) -> None:
    latent = "lora" in name or name.endswith("head_dim")  # belongs to MLA
    model, run = (
        ModelConfig(n_experts=8, kv_lora_rank=9 if latent else None, window=9 if "full" in name else None),
        RunConfig(),
    )
    first = run_id(model, run)
    if hasattr(model, name):
        model = model.replace(**{name: OTHER[name]})
    else:
        run = run.replace(**{name: OTHER[name]})
    assert run_id(model, run) != first


@given(model=st.from_type(ModelConfig), run=st.from_type(RunConfig))
def test_defaults_filled_in_name_the_same_run(model: ModelConfig, run: RunConfig) -> None:
    resolved = resolve(model, run)
    assert resolve(model, resolved) == resolved
    assert resolved.batch_size == run.sequences
    assert resolved.learning_rate is not None
    for name in ("batch_size", "learning_rate"):
        if getattr(run, name) is not None:
            assert getattr(resolved, name) == getattr(run, name), "what was chosen stays"
    assert run_id(model, run) == run_id(model, resolved)
    assert len(run_id(model, run)) == 16
    assert int(run_id(model, run), 16) >= 0


def test_a_name_can_be_told_without_the_lab(model: ModelConfig) -> None:
    """So that another program finds a record: a hash of what the configs say beyond the defaults."""
    run = RunConfig(budget=1e10, batch_size=3, learning_rate=0.5, seed=7)
    said = '[{"context": 32, "d_expert": 16, "d_model": 8, "n_experts": 4, "n_heads": 1}, '
    said += '{"batch_size": 3, "budget": 10000000000.0, "learning_rate": 0.5, "seed": 7}]'
    assert run_id(model, run) == hashlib.sha256(said.encode()).hexdigest()[:16]


@given(model=st.from_type(ModelConfig), run=st.from_type(RunConfig))
def test_a_new_field_renames_no_run(model: ModelConfig, run: RunConfig) -> None:
    """Whose default is what was done before."""
    kinds = [
        dataclasses.make_dataclass(kind.__name__, [("new", int, 3)], bases=(kind,), frozen=True, kw_only=True)
        for kind in (ModelConfig, RunConfig)
    ]
    newer = [kind(**config.to_dict()) for kind, config in zip(kinds, (model, run), strict=True)]
    assert newer[0].new == 3
    assert run_id(*newer) == run_id(model, run)
    assert run_id(newer[0].replace(new=4), newer[1]) != run_id(model, run)


def test_a_records_name_is_its_runs(record: Record, model: ModelConfig, run: RunConfig) -> None:
    assert record.id == run_id(model, run.replace(budget=2e6))


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == tmp_path / "home"
    monkeypatch.setenv("SPARSITY_LAB_HOME", "")
    assert home().name == "sparsity-lab"


# ---- Files


def test_oldest_first(store: RunStore, record: Record) -> None:
    for seed, age in ((1, 30), (2, 10), (3, 20)):
        path = store.save(of_seed(record, seed))
        os.utime(path, (1e9 - age, 1e9 - age))
    assert [r.seed for r in store.load()] == [1, 3, 2]


FOREIGN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"{}",
    b'{"status": "finished"}',
    b"\xff\xfe\x00",
    b"[1, 2, 3]",
]


@pytest.mark.parametrize("content", FOREIGN)
def test_strange_files_are_skipped_with_a_warning(store: RunStore, record: Record, content: bytes) -> None:
    store.save(record)
    (store.folder / "strange.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"skipped .*strange\.json: not a run record"):
        assert store.load() == [record]


@pytest.mark.parametrize("part", ["model", "run"])
def test_a_record_of_another_version_is_skipped(store: RunStore, record: Record, part: str) -> None:
    """Its configs can't be built, so it could be neither named nor drawn."""
    store.save(record)
    values = json.loads(record.to_json())
    values[part]["renamed_field"] = 1
    (store.folder / "old.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match=r"skipped .*old\.json: not a run record"):
        assert store.load() == [record]


def test_find_passes_over_a_torn_file(store: RunStore, record: Record, model: ModelConfig, run: RunConfig) -> None:
    path = store.save(record)
    path.write_text(path.read_text()[:-20])
    with pytest.warns(UserWarning, match="not a run record"):
        assert store.finished(model, run.replace(budget=2e6), record.corpus["fingerprint"]) is None


def test_a_record_is_whole_or_the_old_one(store: RunStore, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(record)

    def full(*arguments: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("sparsity_lab.files.os.replace", full)
        with pytest.raises(OSError, match="full"):
            store.save(dataclasses.replace(record, steps=99))
    assert store.load() == [record]
    store.save(dataclasses.replace(record, steps=99))
    assert [r.steps for r in store.load()] == [99]
    assert [path.suffix for path in store.folder.iterdir()] == [".json"]


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsity_lab.files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.json", "{}")
    assert list(tmp_path.iterdir()) == []


# ---- Records as a DataFrame


def test_a_frame_holds_what_the_records_say(store: RunStore, record: Record) -> None:
    records = [
        of_seed(record, 0),
        dataclasses.replace(of_seed(record, 1), status="diverged", val_loss=None, val_bits=None),
        failed_record((ModelConfig.on_dial(16, 0.9375), RunConfig(seed=2)), "no memory"),
    ]
    for each in records:
        store.save(each)
    frame = load_frame(store.folder)
    columns = "id status val_loss sparsity flops seed params_total params_active tokens steps seconds width n_layers "
    columns += (
        "n_experts top_k n_shared_experts d_expert budget batch_size learning_rate fingerprint compiled cpu_seconds"
    )
    assert list(frame.columns) == columns.split()
    assert list(frame["id"]) == sorted(each.id for each in records)
    by_id = {each.id: each for each in records}
    for row in frame.to_dict("records"):
        each = by_id[row["id"]]
        for name in ("status", "sparsity", "flops", "seed", "params_total", "params_active", "tokens", "steps"):
            assert row[name] == getattr(each, name)
        assert row["seconds"] == each.seconds
        assert row["val_loss"] == each.val_loss or (np.isnan(row["val_loss"]) and each.val_loss is None)
        model, run = ModelConfig.from_dict(each.model), RunConfig.from_dict(each.run)
        assert (row["width"], row["fingerprint"]) == (model.d_model, each.corpus["fingerprint"])
        for name in ("n_experts", "top_k", "n_shared_experts", "d_expert"):
            assert row[name] == getattr(model, name)
        for name in ("budget", "batch_size", "learning_rate"):
            assert row[name] == getattr(resolve(model, run), name)
    assert frame["val_loss"].dtype == float


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_a_run_without_its_measurement_is_worth_another_try(
    status: str, store: RunStore, record: Record, model: ModelConfig, run: RunConfig
) -> None:
    """Also one that an earlier version called finished."""
    pair, fingerprint = (model, run.replace(budget=2e6)), record.corpus["fingerprint"]
    measured = dataclasses.replace(record, status="finished")
    unmeasured = dataclasses.replace(record, status=status, val_loss=None, val_bits=None)
    store.save(unmeasured)
    assert store.finished(*pair, fingerprint) is None
    store.save(measured)
    assert store.finished(*pair, fingerprint) == measured
    store.save(unmeasured)
    assert store.finished(*pair, fingerprint) == measured, "it stays"
    store.save(dataclasses.replace(unmeasured, status="diverged"))
    assert store.finished(*pair, fingerprint) != measured, "what has diverged can not be measured"


def test_an_empty_frame(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        frame = load_frame(folder)
        assert len(frame) == 0
        assert "val_loss" in frame.columns


def spoilt(text: str) -> dict[str, str]:
    """A record's JSON, damaged in many ways."""
    values = json.loads(text)

    def without(*names: str) -> str:
        return json.dumps({name: value for name, value in values.items() if name not in names})

    return {
        "empty": "",
        "torn": text[: len(text) // 2],
        "cut by a byte": text[:-1],
        "a list": "[1]",
        "a number": "3",
        "null": "null",
        "foreign": '{"name": "theirs"}',
        "bytes": "\udcff\udcfe",
        "older": without("curve"),
        "no run": without("run"),
        "newer": json.dumps(values | {"renamed": 1}),
        "newer model": json.dumps(values | {"model": values["model"] | {"renamed": 1}}),
        "newer run": json.dumps(values | {"run": values["run"] | {"renamed": 1}}),
        "model is text": json.dumps(values | {"model": "big"}),
        "no corpus": json.dumps(values | {"corpus": {}}),
        "a word for a loss": json.dumps(values | {"val_loss": "low"}),
        "no seed": json.dumps(values | {"seed": None}),
        "curve is text": json.dumps(values | {"curve": "x"}),
        "no curve": json.dumps(values | {"curve": {}}),
        "a curve of words": json.dumps(values | {"curve": {"flops": ["a"], "loss": ["b"]}}),
        "an uneven curve": json.dumps(values | {"curve": {"flops": [1.0, 2.0], "loss": [1.0]}}),
        "nested deeply": "[" * 100_000,
        "a field nested deeply": json.dumps(values | {"curve": 0}).replace("0", "[" * 400 + "]" * 400, 1),
        "beyond numbers": json.dumps(values | {"val_loss": 10**400}),
        "beyond whole numbers": json.dumps(values | {"flops": 10**400}),
        "a budget beyond numbers": json.dumps(values | {"run": values["run"] | {"budget": 10**400}}),
        "not a number": json.dumps(values | {"val_loss": math.nan}),
        "infinite": json.dumps(values | {"val_loss": math.inf}),
        "a curve that is no number": json.dumps(values | {"curve": {"flops": [1.0], "loss": [math.nan]}}),
        "below 0": json.dumps(values | {"val_loss": -1.0}),
        "true": json.dumps(values | {"val_loss": True}),
        "no status": json.dumps(values | {"status": "banana"}),
        "versions in a list": json.dumps(values | {"versions": [1]}),
        "scores are text": json.dumps(values | {"scores": "x"}),
        "half a character": json.dumps(values | {"device": "\ud800"}),
        "another seed": json.dumps(values | {"seed": 7}),
        "another sparsity": json.dumps(values | {"sparsity": 0.5}),
        "a model that can't be": json.dumps(values | {"model": values["model"] | {"d_model": -8}}),
        "fingerprint 7": json.dumps(values | {"corpus": {"name": "a", "fingerprint": 7}}),
    }


def test_what_is_no_record_is_passed_over_by_all_readers(store: RunStore, record: Record) -> None:
    path = store.save(record)
    bad = spoilt(path.read_text())
    for number, text in enumerate(bad.values()):
        # Under a name that a record of it would have, so that it is for its content that it is passed over.
        folder = store.folder.parent / f"{number}"
        folder.mkdir()
        (folder / path.name).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.warns(StrangeFile, match=r"skipped .*: not a run record of this version \(.{10,200}\)$"):
            assert RunStore(folder).load() == []
        (store.folder / f"{number}.json").write_bytes(text.encode(errors="surrogateescape"))
    (store.folder / "folder.json").mkdir()
    (store.folder / "gone.json").symlink_to("nowhere")
    with pytest.warns(UserWarning, match="not a run record of this version") as loading:
        assert store.load() == [record]
    with pytest.warns(UserWarning, match="not a run record of this version") as framing:
        assert list(load_frame(store.folder)["id"]) == [record.id]
    for caught in (loading, framing):
        named = {str(warning.message).split(": ")[0].rpartition("/")[2] for warning in caught}
        assert named == {f"{number}.json" for number in range(len(bad))} | {"folder.json"}


def test_what_is_no_file_is_never_opened(store: RunStore, record: Record) -> None:
    path = store.save(record)
    os.mkfifo(store.folder / "pipe.json")
    (store.folder / "loop.json").symlink_to("loop.json")
    (store.folder / "endless.json").symlink_to("/dev/zero")
    with open(store.folder / "huge.json", "wb") as file:
        file.truncate(2**40)
    with pytest.warns(StrangeFile) as loading:
        assert store.load() == [record]
    with pytest.warns(StrangeFile) as framing:
        assert list(load_frame(store.folder)["id"]) == [record.id]
    for caught in (loading, framing):
        assert len(caught) == 4
    for name in ("pipe", "loop", "endless", "huge"):
        with pytest.warns(StrangeFile, match=f"skipped .*{name}"):
            assert store.read(name) is None
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(StrangeFile):
        store.save(record)
    assert store.read(record.id) == record


def test_a_record_counts_under_its_own_name_alone(store: RunStore, record: Record) -> None:
    path = store.save(record)
    other = store.path(record.model_config, record.run_config.replace(seed=5))
    other.write_text(path.read_text())
    with pytest.warns(StrangeFile, match=f"skipped {other}: .*it is of the run {record.id}"):
        assert (
            store.finished(record.model_config, record.run_config.replace(seed=5), record.corpus["fingerprint"]) is None
        )
    for name in ("\0", "\ud800", "x" * 300):
        with pytest.warns(StrangeFile):
            assert store.read(name) is None


def test_a_table_never_mixes_texts(store: RunStore, record: Record) -> None:
    """A run on another text than most is named, with its file. One that failed has no text."""
    finished = dataclasses.replace(record, status="finished")
    for seed in (1, 2):
        store.save(of_seed(finished, seed))
    odd = dataclasses.replace(of_seed(finished, 3), corpus={"name": "theirs", "fingerprint": "0" * 64})
    failed = failed_record((record.model_config, record.run_config.replace(seed=4)), "no memory")
    path = store.save(odd)
    store.save(failed)
    with pytest.warns(StrangeFile, match=f"skipped {path}: its text 'theirs' .00000000. is not that of most runs here"):
        table = load_frame(store.folder)
    assert sorted(table["seed"]) == [1, 2, 4]
    assert len(store.load()) == 4, "each may be asked for by its text"
    with pytest.raises(ValueError, match=f"runs on different texts can't be compared: .*, {odd.id}"):
        laws_finished(to_frame(store.load()), ["val_loss", "status"])


def test_a_folder_in_the_place_of_a_record_costs_no_result(store: RunStore, record: Record) -> None:
    path = store.path(record.model_config, record.run_config)
    (path / "somebodys").mkdir(parents=True)
    with pytest.warns(StrangeFile, match=f"{path} is a folder: kept as {path.name}.*aside"):
        assert store.save(record) == path
    assert store.load() == [record]
    [aside] = store.folder.glob("*.aside")
    assert (aside / "somebodys").is_dir()
