"""The command line: results on stdout, the rest on stderr, an exit status that scripts can rely on."""

import errno
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import fit as synthetic
from sparsity_lab import __version__
from sparsity_lab.accounting import plan
from sparsity_lab.analysis.pruning import nonzeros
from sparsity_lab.analysis.sparsity_measures import MEASURES
from sparsity_lab.cli import prune as prune_file
from sparsity_lab.cli.main import VERBS, main
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import DATA, home
from sparsity_lab.guesses import Guess, guess_table, guesses_csv, keep_guess, read_guesses
from sparsity_lab.laws.fitting import load_fits
from sparsity_lab.record import Record
from sparsity_lab.runs import store as runs
from sparsity_lab.runs.grid import read_grid
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.sweep import Bar, Progress, estimate
from sparsity_lab.training import checkpoint
from sparsity_lab.training import trainer as training
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import train
from tests.sweeps import SPEED, cluster_here

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(corpus_file: Path) -> list[str]:
    """A dense run of some ten steps."""
    return ["train", "--width", "8", "--budget", "1e8", "--corpus", str(corpus_file), "--device", "cpu"]


def no_constant(name: str) -> None:
    pytest.fail(f"{name} is not JSON")


def failed(arguments: list[str], capsys: Capture) -> str:
    """The one line of an error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("sparsity-lab: ")
    return lines[0].removeprefix("sparsity-lab: ")


# ---- train


def test_train_prints_one_record(tiny: list[str], corpus_file: Path, capsys: Capture) -> None:
    assert main([*tiny, "--sparsity", "0.75", "--seed", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1, "nothing but the record"
    record: dict[str, Any] = json.loads(out, parse_constant=no_constant)
    *_, expected = train(ModelConfig.on_dial(8, 0.75), RunConfig(budget=1e8, seed=3, corpus=str(corpus_file)))
    fields = ("val_loss", "flops", "tokens", "params_total", "params_active", "sparsity", "seed", "status")
    assert {name: record[name] for name in fields} == {name: getattr(expected, name) for name in fields}
    assert record["status"] == "finished"
    assert record["sparsity"] == 0.75
    assert record["seed"] == 3
    assert record["seconds"] > 0
    assert record["flops"] <= 1e8
    assert "S=0.75" in err, "progress is on stderr"


def test_options_reach_the_run(tiny: list[str], tmp_path: Path, capsys: Capture) -> None:
    options = {
        "learning_rate": 0.01,
        "batch_size": 3,
        "backend": "naive",
        "dtype": "bfloat16",
        "threads": 2,
        "seed": 5,
        "device": "cpu",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    path = tmp_path / "run.safetensors"
    saving = ["--checkpoint", str(path), "--checkpoint-seconds", "0"]
    assert main([*tiny, *arguments, *saving, "--hold", "total", "--sparsity", "0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {name: record["run"][name] for name in options} == options
    assert record["run"]["budget"] == 1e8
    assert record["model"] == ModelConfig.on_dial(8, 0.5, "total").to_dict()
    assert path.exists()


def test_a_run_shorter_than_the_time_between_checkpoints_leaves_its_end(
    tiny: list[str], tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "run.safetensors"
    assert main([*tiny, "--checkpoint", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    data = answer(["prune", str(path), "--method", "wanda"], capsys)
    assert data["loss_before"] == record["val_loss"]


def test_train_without_a_gpu(tiny: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = failed([*tiny, "--device", "cuda", "--dtype", "bfloat16"], capsys)
    assert said == "device='cuda' but torch finds no CUDA GPU: use device='auto' or 'cpu'"


def test_train_in_words(tiny: list[str], capsys: Capture) -> None:
    assert main(tiny) == 0
    assert capsys.readouterr().out.startswith("Dense: finished after ")


def test_a_diverged_run_is_status_1(tiny: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, x_BT: torch.Tensor, y_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head.sum() * torch.nan, self.head.sum()

    monkeypatch.setattr(training.Transformer, "loss", broken)
    assert main([*tiny, "--json"]) == 1
    record = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert record["status"] == "diverged"
    assert record["val_loss"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1.0"], "sparsity=1.0 must be at least 0 and below 1"),
        (["--sparsity", "nan"], "sparsity=nan must be at least 0 and below 1"),
        (["--sparsity", "0.99999"], "sparsity=0.99999 needs 100000 experts per layer, more than 4096"),
        (["--budget", "1"], "budget=1 FLOPs is less than one step of this model"),
        (["--budget", "nan"], "budget=nan must be a finite number"),
        (["--width", "7"], "width=7 must be a positive multiple of 4"),
        (["--seed", "-1"], "seed=-1 is out of range"),
        (["--corpus", "no/such/text"], "corpus='no/such/text' does not exist"),
        (["--corpus", ""], "corpus='' must be a name or a path"),
        (["--dtype", "float16"], "dtype='float16' is not known"),
        (["--backend", "fast"], "backend='fast' is not known"),
        (["--learning-rate", "-1"], "learning_rate=-1 is out of range"),
        (["--threads", "0"], "threads=0 is out of range"),
        (["--checkpoint-seconds", "nan"], "--checkpoint-seconds nan must be a number of seconds, 0 or more"),
        (["--checkpoint-seconds", "inf"], "--checkpoint-seconds inf must be a number of seconds, 0 or more"),
        (["--checkpoint-seconds", "-0.5"], "--checkpoint-seconds -0.5 must be a number of seconds, 0 or more"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tiny: list[str], arguments: list[str], message: str, capsys: Capture
) -> None:
    assert failed([*tiny, *arguments], capsys).startswith(message)


def test_an_empty_file(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert f"corpus='{path}' has 0 bytes of text" in failed(["train", "--corpus", str(path)], capsys)


def test_a_checkpoint_that_is_none(tiny: list[str], tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a checkpoint")
    assert f"{path} is not a Sparsity Lab checkpoint" in failed([*tiny, "--checkpoint", str(path)], capsys)
    assert path.read_text() == "not a checkpoint"


def test_a_checkpoint_in_no_folder_or_a_folder(tiny: list[str], tmp_path: Path, capsys: Capture) -> None:
    for path in (tmp_path, Path("/dev/null/run.safetensors")):
        assert str(path) in failed([*tiny, "--checkpoint", str(path), "--checkpoint-seconds", "0"], capsys)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["train", "--sparsity", "much"], ["train", "--hold", "both"], ["train", "--nonsense"]],
)
def test_usage(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: sparsity-lab" in capsys.readouterr().err


def test_help_lists_every_verb(capsys: Capture) -> None:
    for words, texts in (
        ([], [f"\n    {verb}" for verb in VERBS]),
        (["prune"], ["see what that costs.", "--method", "experts-loss"]),
        (["course", "grade"], ["--unsandboxed"]),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
        out = capsys.readouterr().out
        assert all(text in out for text in texts)


def test_interrupt(tiny: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "step", interrupted)
    assert main(tiny) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.fixture
def at_third_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen in the third step of a training, but only once."""
    step, done = training.Training.step, list[bool]()

    def disturb(what: Callable[[], object]) -> None:
        def disturbed(self: training.Training) -> Any:
            if self.steps_done == 2 and not done:
                done.append(True)
                what()
            return step(self)

        monkeypatch.setattr(training.Training, "step", disturbed)

    return disturb


@pytest.mark.parametrize("place", ["given", "the lab's"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_the_same_command_resumes_it(
    number: int, place: str, tiny: list[str], tmp_path: Path, capsys: Capture, at_third_step: Any
) -> None:
    path = tmp_path / "my run.safetensors"
    words = [*tiny, *(["--checkpoint", str(path)] if place == "given" else [])]
    before = signal.getsignal(signal.SIGTERM)
    at_third_step(lambda: os.kill(os.getpid(), number))
    assert main(words) == 128 + number
    out, err = capsys.readouterr()
    assert out == ""
    assert signal.getsignal(signal.SIGTERM) == before
    if place != "given":
        (path,) = (home() / "runs" / "checkpoints").glob("*.safetensors")
    *_, told, command = err.splitlines()
    assert told.endswith(f"{path} has the run. To resume:")
    assert shlex.split(command) == ["sparsity-lab", *words]
    state = checkpoint.peek(path)
    assert state is not None
    assert state["step"] == 3

    assert main([*shlex.split(command)[1:], "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert path.exists() == (place == "given"), "the lab's own goes once the record is kept"
    assert main([*tiny, "--again", "--json"]) == 0
    unbroken = json.loads(capsys.readouterr().out)
    assert (resumed["val_loss"], resumed["curve"]) == (unbroken["val_loss"], unbroken["curve"])


def test_a_signal_while_the_loss_is_measured(tiny: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = training.Training.evaluate

    def disturbed(self: training.Training, stop: Callable[[], bool]) -> float | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "evaluate", disturbed)
        assert main(tiny) == 143
    assert "stopped at 100%" in capsys.readouterr().err
    monkeypatch.setattr(training.Training, "step", lambda self: pytest.fail("it is trained already"))
    assert main(tiny) == 0


def test_a_second_signal_ends_it_at_once(corpus_file: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from sparsity_lab.accounting import plan
from sparsity_lab.cli.main import main
from sparsity_lab.training import trainer
def step(self):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return [print("it goes on") for _ in range(9)]
trainer.Training.step = step
main(sys.argv[1:])
"""
    words = ["train", "--width", "8", "--budget", "1e8", "--corpus", str(corpus_file)]
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("seconds", ["0", "1e6"])
def test_a_checkpoint_that_can_not_be_saved_ends_no_training(
    number: int, seconds: str, tiny: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: training.Training, path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(training.Training, "save", refused)
    words = [*tiny, "--checkpoint", str(tmp_path / "run.safetensors"), "--checkpoint-seconds", seconds, "--json"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert [record.id for record in user_store().load()] == [Record.from_json(out).id], "the record is kept"
    why = f"{tmp_path} can't be written ({os.strerror(number)}; "
    assert err.splitlines()[-1].startswith(f"sparsity-lab: the run is trained, but not all is saved: {why}")
    assert err.count("no checkpoint was saved") == (seconds == "0"), "it is said once"


def test_a_record_that_can_not_be_kept_is_printed(
    tiny: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    load_corpus(tiny[6])
    monkeypatch.setattr("sparsity_lab.files.os.fsync", full)
    assert main(tiny) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert f"{home() / 'runs'} can't be written (No space left on device; make room there)" in err


def test_help_and_version_need_no_torch() -> None:
    code = "import sys; from sparsity_lab.cli.main import main; sys.argv = ['sparsity-lab', '--version']"
    code += "\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


# ---- sweep


@pytest.fixture
def grid_file(corpus_file: Path, tmp_path: Path) -> Path:
    """Two runs of some ten steps."""
    shape = 'width = 8\nsparsity = 0.75\ncontext = 32\nd_expert = 16\neval_tokens = 1_024\ndevice = "cpu"\n'
    path = tmp_path / "grid.toml"
    path.write_text(f'[[runs]]\nbudget = 2e7\nseed = [0, 1]\ncorpus = "{corpus_file}"\n{shape}')
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster in this process, for a sweep that need not calibrate."""
    monkeypatch.setattr("sparsity_lab.runs.lanes.measure_speed", lambda line, corpus: SPEED)
    with cluster_here() as cluster:
        yield cluster.scheduler_address


def test_sweep_estimates_trains_and_resumes(grid_file: Path, here: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "runs"
    words = ["sweep", str(grid_file), "--out", str(out)]
    assert main([*words, "--estimate", "--workers", "2"]) == 0
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert err == f"{estimate(read_grid(grid_file), out, 2, SPEED).summary()}\n"
    assert not out.exists(), "an estimate leaves nothing behind"
    assert main([*words, "--scheduler", here]) == 0
    stdout, err = capsys.readouterr()
    assert stdout == "2 of 2 runs done.\n"
    assert "2 runs to train: about" in err
    assert "100%" in err
    first, second = sorted(out.glob("*.json"))
    kept = first.stat().st_mtime_ns
    second.unlink()
    (home() / "runs" / second.name).unlink()
    assert main([*words, "--scheduler", here]) == 0
    stdout, err = capsys.readouterr()
    assert "1 run to train" in err
    assert stdout == "2 of 2 runs done.\n"
    assert first.stat().st_mtime_ns == kept
    assert tomllib.loads((out / "provenance.toml").read_text())["runs_finished"] == 2


def test_the_time_on_a_gpu_that_is_not_here(grid_file: Path, tmp_path: Path, capsys: Capture) -> None:
    """By budgets, and so that everybody sees what was assumed."""
    grid_file.write_text(grid_file.read_text().replace("2e7", "[2e7, 1e8]"))
    words = ["sweep", str(grid_file), "--out", str(tmp_path / "runs"), "--estimate", "--device", "T4"]
    assert main([*words, "--utilisation", "1e-6"]) == 0
    small, large, assumption = capsys.readouterr().err.splitlines()
    steps = sum(plan(*pair).steps for pair in read_grid(grid_file) if pair[1].budget == 1e8)
    assert small.startswith("2×10⁷ FLOPs: 2 runs, ")
    assert large == f"10⁸ FLOPs: 2 runs, {steps:,} steps, {2e8 / 8.1e6:.0f} s; {2.4e8 / 8.1e6:.0f} s so far."
    assert assumption == (
        "Assumed, not measured: all runs together reach 0.0001 % of its peak (8.1e+12 FLOP/s in float32) on t4."
    )


def test_sweep_with_runs_that_fail_or_are_interrupted(
    grid_file: Path, here: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sweep", str(grid_file), "--out", str(tmp_path / "runs"), "--scheduler", here]
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", lambda self: 1 / 0)
        assert main(words) == 1
    assert capsys.readouterr().out == "0 of 2 runs done, 2 failed.\n"

    def interrupted(bar: Bar, progress: Progress) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "__call__", interrupted)
        assert main(words) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_sweep_into_a_folder_that_can_not_be_written(
    number: int, grid_file: Path, here: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"

    def refused(path: Path, text: str) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("sparsity_lab.runs.store.write_text", refused)
        assert main(["sweep", str(grid_file), "--out", str(out), "--scheduler", here]) == 1
    said = capsys.readouterr().err
    assert f"sparsity-lab: {out} can't be written ({os.strerror(number)}" in said
    assert "Nothing that was finished is lost; the same command resumes the sweep." in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("seed = [0, 1]", "seed = [0, -1]"), [], "grid {grid}: table 1: seed=-1 is out of range"),
        (("seed", "sead"), [], "grid {grid}: table 1 has 'sead', which is no field of a run"),
        (("[[runs]]", "[[run]]"), [], "grid {grid} must hold [[runs]] tables and nothing else, got run"),
        (("2e7", "1"), [], "budget=1 FLOPs is less than one step of this model"),
        (('corpus = "', 'corpus = "/no'), [], "corpus='/no"),
        (("", ""), ["--workers", "0"], "workers=0 must be at least 1"),
        (("", ""), ["--per-gpu", "0"], "per_gpu=0 must be at least 1"),
        (('device = "cpu"', 'device = "cuda"'), [], "device='cuda', but torch finds no CUDA GPU here"),
        (("", ""), ["--per-gpu", "2"], "per_gpu=2, but torch finds no CUDA GPU here"),
        (("", ""), ["--device", "h200"], "--device and --utilisation belong together, and to --estimate"),
        (
            ("", ""),
            ["--device", "h20", "--utilisation", ".1", "--estimate"],
            "device='h20' is not known: use one of t4,",
        ),
        (("", ""), ["--device", "h200", "--utilisation", "2", "--estimate"], "utilisation=2 must be above 0"),
    ],
)
def test_mistakes_in_a_sweep(
    grid_file: Path,
    tmp_path: Path,
    change: tuple[str, str],
    arguments: list[str],
    message: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sparsity_lab.runs.gpus.gpus", lambda: ())
    monkeypatch.setattr("sparsity_lab.runs.lanes.measure_speed", lambda line, corpus: SPEED)
    grid_file.write_text(grid_file.read_text().replace(*change))
    said = failed(["sweep", str(grid_file), "--out", str(tmp_path / "runs"), *arguments], capsys)
    assert said.startswith(message.format(grid=grid_file))
    assert not (tmp_path / "runs").exists()


def test_a_sweep_without_a_grid(tmp_path: Path, capsys: Capture) -> None:
    assert "missing.toml does not exist" in failed(["sweep", "missing.toml", "--out", str(tmp_path)], capsys)
    both = ["sweep", "grid.toml", "--out", "runs", "--workers", "2", "--scheduler", "tcp://host:8786"]
    for words in (["sweep", "grid.toml"], both):
        with pytest.raises(SystemExit, match="2"):
            main(words)


# ---- What a model costs


def answer(arguments: list[str], capsys: Capture) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=no_constant)


def test_count(capsys: Capture) -> None:
    data = answer(["count", "deepseek-v3"], capsys)
    assert data["total"] == sum(data["parts"].values()) == 671_026_404_352
    assert data["active"] == {"both": 37_552_282_624, "output": 36_625_603_584, "none": 35_698_924_544}
    assert data["active"]["both"] == sum(data["active_parts"].values())
    assert data["sparsity_experts"] == 248 / 256
    assert data["sparsity_params"] == pytest.approx(0.944, abs=1e-3)
    assert main(["count", "deepseek-v3"]) == 0
    text = capsys.readouterr().out
    for words in ("671.0B", "36.6B", "37.6B", "8 of 256 experts and 1 shared", "653,908,770,816", "97.4%", "100.0%"):
        assert words in text
    assert main(["count", "gpt2"]) == 0
    assert "feed-forward" in capsys.readouterr().out


def test_count_a_config_file(tmp_path: Path, capsys: Capture) -> None:
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 10}
    settings |= {"vocab_size": 5, "max_position_embeddings": 9}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | settings))
    data = answer(["count", str(tmp_path)], capsys)
    assert data["total"] == 2 * 5 * 8 + 4 * 64 + 3 * 80 + 3 * 8
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba_moe"} | settings))
    assert "model_type='mamba_moe' is not understood" in failed(["count", str(tmp_path)], capsys)
    assert failed(["count", "gpt-5"], capsys).startswith("no preset 'gpt-5'")
    assert "cannot be read" in failed(["count", "missing.json"], capsys)
    assert failed(["count", "no-one/nothing"], capsys).startswith("no-one/nothing is no file, no folder")


def test_count_by_repository_and_from_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(["count", "deepseek-ai/DeepSeek-V3"], capsys)["model"] == "deepseek-v3"
    text = io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"model_type": "llama"}'))
    monkeypatch.setattr(sys, "stdin", text)
    data = answer(["count", "-"], capsys)
    assert data["model"] == "standard input"
    assert data["total"] == 6_738_415_616


def test_models(capsys: Capture) -> None:
    data = answer(["models"], capsys)
    assert len(data["types"]) > 90
    v3 = next(row for row in data["presets"] if row["model"] == "deepseek-v3")
    assert v3["total"] == 671_026_404_352
    assert v3["total_published"] == 671e9
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "deepseek_v4" in out
    assert "llama-4-scout 871.9M" in out
    assert "qwen3_vl_moe" in data["vision_types"]
    longest = {len(line) for line in out.splitlines()}
    assert max(longest) <= 80


@pytest.mark.parametrize("words", ["count", "cost --tokens 1T", "cache --tokens 8", "memory", "compare gpt2"])
def test_the_vision_part_is_told(words: str, capsys: Capture) -> None:
    verb, *more = words.split()
    assert main([verb, "llama-4-scout", *more]) == 0
    assert "text_config is counted; with its vision part (871.9M) it has 108.6B\n" in capsys.readouterr().out


def test_count_and_cache_of_deepseek_v4(capsys: Capture) -> None:
    data = answer(["count", "deepseek-v4-flash"], capsys)
    assert data["total"] == sum(data["parts"].values()) == 284_332_230_231
    assert data["vision"] == 0
    assert main(["cache", "deepseek-v4-flash", "--tokens", "1048576"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "43 of 43 layers (sliding) keep at most 128 tokens." in lines
    assert "21 of 43 layers (sparse) keep one entry for 4 tokens." in lines
    assert "20 of 43 layers (compressed) keep one entry for 128 tokens." in lines


def test_cost(capsys: Capture) -> None:
    words = [
        "cost",
        "deepseek-v3",
        "--tokens",
        "14.8e12",
        "--device",
        "h800",
        "--utilisation",
        "0.217",
        "--dtype",
        "FP8",
    ]
    data = answer(words, capsys)
    assert data["device_hours"] == pytest.approx(2.788e6, rel=0.015)
    assert data["dollars"] == pytest.approx(5.576e6, rel=0.015)
    assert data["dtype"] == "fp8"
    assert answer([*words, "--price", "4"], capsys)["dollars"] == pytest.approx(2 * data["dollars"])
    assert answer([*words, "--convention", "executed"], capsys)["flops"] > data["flops"]
    plain = ["cost", "DeepSeek-V3", "--tokens", "14.8T", "--device", "H800", "--utilization", "0.217"]
    assert answer(plain, capsys)["dtype"] == "bfloat16", "not the fastest that the device has"
    assert answer([*plain, "--device", "v100"], capsys)["dtype"] == "float16"
    long, short = (answer([*plain, "--convention", "executed", "--context", n], capsys) for n in ("128k", "4k"))
    assert (long["context"], short["context"]) == (128_000, 4_000)
    assert long["flops"] > short["flops"]
    assert main([*plain, "--convention", "causal"]) == 0
    text = capsys.readouterr().out
    for said in ("in sequences of 8,192", "in bfloat16", "Note: multi-token prediction (1 layer for training)"):
        assert said in text
    assert main(words) == 0
    assert "2,751,672" in capsys.readouterr().out
    for more, message in (
        (["--device", "abacus"], "device='abacus' is not known"),
        (["--utilisation", "2"], "utilisation=2 must be above 0"),
        (["--convention", "hours"], "convention='hours' is not known"),
        (["--dtype", "fp4"], "dtype='fp4' is not known"),
        (["--price", "-1"], "price=-1 must be"),
        (["--tokens", "-1"], "tokens=-1 must be above 0"),
        (["--tokens", "12x"], "tokens='12x' is no number: write it like 14.8e12, 14.8T or 128k"),
        (["--context", "1e9"], "context=1e+09 must be a whole number from 1 to 163840"),
    ):
        assert failed([*words, *more], capsys).startswith(message)
    assert "encoder-decoders are not counted" in failed(["cost", "switch-base-8", "--tokens", "1e9"], capsys)


def test_compare(capsys: Capture) -> None:
    rows = {row["what"]: row for row in answer(["compare", "deepseek-67b", "deepseek-v3"], capsys)["rows"]}
    assert rows["cache, bytes per token in bfloat16"]["b"] == 70_272
    assert rows["sparsity by experts"]["a"] == 0
    assert main(["compare", "switch-base-8", "gpt2"]) == 0
    out = capsys.readouterr().out
    assert "not counted" in out
    assert "619.3M" in out
    assert answer(["compare", "gpt2", "llama-4-scout"], capsys)["context"] == 1024, "the longest that both can read"


def test_cache(capsys: Capture) -> None:
    data = answer(["cache", "deepseek-v3", "--tokens", "131072"], capsys)
    assert data["bytes"] == 131_072 * 70_272
    assert data["bytes_per_token"] == 70_272
    assert data["elements_per_token_per_layer"] == 576
    twins = {name: row["elements_per_token_per_layer"] for name, row in data["twins"].items()}
    assert twins == {"mha": 2 * 128 * 128, "gqa": 2 * 8 * 128, "mqa": 2 * 128}, "DeepSeek-V2, Table 1"
    assert main(["cache", "deepseek-v3", "--tokens", "131072"]) == 0
    text = capsys.readouterr().out
    assert "9.21 GB" in text
    assert "Common mistake: 8.19 GB, which leaves out the RoPE key" in text
    assert answer(["cache", "deepseek-v3", "--tokens", "1e3", "--batch", "8"], capsys)["bytes"] == 8e3 * 70_272
    windowed = answer(["cache", "gpt-oss-20b", "--tokens", "1000"], capsys)
    assert windowed["bytes"] == 2 * 1024 * (12 * 1000 + 12 * 128), "every second layer keeps 128 tokens"
    assert windowed["layers"] == {"sliding": 12, "full": 12}
    assert answer(["cache", "switch-base-8", "--tokens", "512"], capsys)["bytes"] == 512 * 12 * 2 * 2 * 12 * 64 * 2
    for model, said in (
        ("llama-4-scout", "36 of 48 layers (chunked) keep at most 8,192 tokens."),
        ("switch-base-8", "as many tokens in the source"),
    ):
        assert main(["cache", model, "--tokens", "500"]) == 0
        assert capsys.readouterr().out.count(said) == 1
    for more, message in (
        (["--tokens", "0"], "tokens=0 must be from 1"),
        (["--tokens", "1.5"], "tokens=1.5 must be a whole number"),
        (["--tokens", "inf"], "tokens=inf must be a whole number"),
        (["--tokens", "1e9"], "tokens=1e+09 must be from 1 to the model's context=163840"),
        (["--tokens", "9", "--batch", "0"], "batch=0 must be from 1"),
        (["--tokens", "9", "--dtype", "bits"], "dtype='bits' is not known"),
    ):
        assert failed(["cache", "deepseek-v3", *more], capsys).startswith(message)


def test_optimum(capsys: Capture) -> None:
    data = answer(["optimum", "--law", "abnar", "--compute", "1e21", "--sparsity", "0.95"], capsys)
    assert set(data) == {"law", "compute", "n_total", "n_active", "tokens", "loss", "sparsity", "warnings"}
    assert data["n_total"] == pytest.approx(3.46e10, rel=0.005)
    assert data["n_active"] == pytest.approx(1.73e9, rel=0.005)
    assert data["loss"] == pytest.approx(2.06, abs=0.005)
    assert (data["sparsity"], data["warnings"]) == (0.95, [])
    held = answer(["optimum", "--compute", "1e21", "--memory", "1e9", "--serve", "1e10"], capsys)
    assert held["n_total"] == pytest.approx(1e9)
    assert answer(["optimum", "--law", "ludziejewski", "--compute", "1e20"], capsys)["n_total"] is None
    assert main(["optimum", "--law", "besiroglu", "--compute", "5.76e23"]) == 0
    text = capsys.readouterr().out
    for words in (
        "72.25B in total",
        "1.329T, 18.4 per active parameter",
        "Careful: N = 7.225e+10 is outside 7e+07 to 1.6e+10",
    ):
        assert words in text
    for more, message in (
        (["--compute", "-1"], "compute=-1 must be above 0"),
        (["--compute", "1e21", "--sparsity", "1"], "sparsity=1.0 must be at least 0 and below 1"),
        (["--compute", "1e21", "--law", "moore"], "law='moore' is not known: use one of abnar"),
        (["--compute", "1e21", "--law", "krajewski"], "granularity=None: krajewski needs it"),
    ):
        assert failed(["optimum", *more], capsys).startswith(message)


# ---- fit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose runs are 200 of a known law."""

    def load_frame(folder: Path) -> Any:
        assert folder == tmp_path
        return synthetic.measured(synthetic.grid())

    monkeypatch.setattr(runs, "load_frame", load_frame)
    return tmp_path


def test_fit(folder: Path, capsys: Capture) -> None:
    arguments = ["fit", str(folder), "--law", "reduced", "--holdout", "1e13", "--bootstraps", "10"]
    out = folder / "fit.json"
    assert main([*arguments, "--json", "--out", str(out)]) == 0
    (data,) = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    (fitted,) = load_fits(out)
    assert {outlier["run"] for outlier in data.pop("outliers")} <= set(range(1, 251))
    assert data == json.loads(json.dumps(fitted.report()))
    assert (data["law"], data["runs"], data["held_out"]["runs"]) == ("reduced", 160, 40)
    assert set(data["coefficients"]["gamma"]) == {"value", "low", "high", "identified"}
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(fitted.summary() + "\n")


def test_chinchilla_is_fitted_at_each_sparsity(folder: Path, capsys: Capture) -> None:
    assert main(["fit", str(folder), "--law", "chinchilla", "--bootstraps", "2"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "runs, S" in line] == [
        f"50 runs, S = {s}" for s in ("0", "0.75", "0.9375", "0.9844")
    ]


def test_fit_of_other_peoples_runs(tmp_path: Path, capsys: Capture) -> None:
    frame, path = synthetic.measured(synthetic.grid()), tmp_path / "runs.csv"
    dense = frame[frame["sparsity"] == 0].reset_index(drop=True)
    dense.loc[4, "val_loss"] *= 2
    table = dense[["params_total", "tokens", "val_loss"]]
    table.set_axis(["Size (N)", "Tokens", "Final loss"], axis=1).to_csv(path, index=False)
    columns = "params_total=Size (N), tokens=Tokens,loss=Final loss"
    arguments = ["fit", str(path), "--law", "chinchilla", "--bootstraps", "10", "--columns", columns]
    (told,) = answer(arguments, capsys)
    assert told["runs"] == len(dense)
    assert [outlier["run"] for outlier in told["outliers"]] == [5], "as a table counts, from 1"
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "1 outliers" not in text
    assert "1 outlier, over 5 robust standard deviations from the law (add --without-outliers to leave it out)" in text
    assert "run 5: " in text
    assert answer([*arguments, "--without-outliers"], capsys)[0]["runs"] == len(dense) - 1
    assert failed([*arguments, "--n-layers", "2"], capsys).startswith(f"n_layers=2, but {path} has no such column")
    assert failed([*arguments[:-1], "loss"], capsys).startswith("columns='loss': write NAME=COLUMN,NAME=COLUMN")
    assert failed(["fit", str(tmp_path), "--columns", "loss=x"], capsys).startswith("columns=loss=x: they name")


def test_fit_of_an_empty_folder(tmp_path: Path, capsys: Capture) -> None:
    assert failed(["fit", str(tmp_path)], capsys).startswith("none of 0 runs finished with a loss")


@pytest.mark.parametrize(
    ("name", "values", "lacking"), [("top_k", (1, 4), "granularity"), ("n_layers", (2, 3), "depth")]
)
def test_kinds_of_runs_are_not_mixed(
    name: str, values: tuple[int, int], lacking: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = synthetic.measured(synthetic.grid())
    both = pd.concat([frame, frame.assign(**{name: values[1]}, val_loss=9.0)])
    monkeypatch.setattr(runs, "load_frame", lambda folder: both)
    arguments = ["fit", str(tmp_path), "--law", "reduced", "--bootstraps", "10"]
    first, option = values[0], f"--{name.replace('_', '-')}"
    assert failed(arguments, capsys).startswith(
        f"the runs have {name}={first} and {values[1]}, and these laws have no {lacking}: add {option} {first}"
    )
    assert main([*arguments, option, str(first)]) == 0
    assert f"{len(frame)} runs" in capsys.readouterr().out


def test_mistakes_in_fit(folder: Path, capsys: Capture) -> None:
    message = failed(["fit", str(folder), "--holdout", "5"], capsys)
    assert message == "holdout=5 is the budget of no run: use one of 1e+11, 3e+11, 1e+12, 3e+12, 1e+13"
    assert failed(["fit", str(folder), "--law", "kaplan"], capsys).startswith("law='kaplan' is not known: use one of")
    assert failed(["fit", str(folder), "--bootstraps", "1"], capsys).startswith("bootstraps=1 must be at least 2")


def test_measure_weights(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {
        "w": torch.tensor([[0, 0], [3, -4]], dtype=torch.bfloat16),
        "zeros": torch.zeros(3),
        "empty": torch.zeros(0, 2),
        "step": torch.tensor(7),
    }
    save_file(tensors, path)
    data = answer(["measure", str(path)], capsys)
    assert set(data) == {"tensors"}
    assert set(data["tensors"]) == set(tensors)
    assert all(list(row) == list(MEASURES) for row in data["tensors"].values())
    assert data["tensors"]["w"] == pytest.approx({n: float(m([0, 0, 3, 4])) for n, m in MEASURES.items()})
    assert data["tensors"]["w"]["gini"] == pytest.approx(15 / 28)
    assert {name for name, value in data["tensors"]["zeros"].items() if value is not None} == {
        "l0",
        "l0_threshold",
        "l1",
    }, "shares of nothing are not defined"
    assert set(data["tensors"]["empty"].values()) == {None}
    assert data["tensors"]["step"]["hoyer"] is None
    assert main(["measure", str(path)]) == 0
    text = capsys.readouterr().out
    assert all(words in text for words in ("zeros", "0.5357", "pq_mean", "√(Σ c²) / Σ c"))


def test_measure_a_network(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "edges.csv"
    path.write_text("source,target,weight\nhub,a,1\nhub,b,1\nhub,c,4\n")
    data = answer(["measure", str(path)], capsys)
    assert {name: data[name] for name in ("nodes", "edges", "density")} == {"nodes": 4, "edges": 3, "density": 0.5}
    assert data["degree_index"] == pytest.approx(1 - 0.5 * (1 - 0.25))
    assert data["weight_index"] == pytest.approx(1 - 0.5 * (1 - data["weight_gini"]))
    assert data["degrees"]["gini"] == pytest.approx(data["degree_gini"]) == pytest.approx(0.25)
    assert data["weights"]["l1"] == -6
    assert list(data["degrees"]) == list(data["weights"]) == list(MEASURES)
    assert main(["measure", str(path)]) == 0
    assert "4 nodes, 3 edges, 0.5 of all possible ones" in capsys.readouterr().out


def test_measure_mistakes(tmp_path: Path, capsys: Capture) -> None:
    nan, foreign, csv = (tmp_path / name for name in ("nan.safetensors", "foreign.safetensors", "edges.csv"))
    save_file({"good": torch.ones(2), "layer.bad": torch.tensor([1.0, torch.nan])}, nan)
    foreign.write_text("weights")
    csv.write_text("source,target,weight\n1,2,nan\n")
    text = tmp_path / "notes.txt"
    text.touch()
    for path, message in (
        (nan, f"{nan}: layer.bad: 1 of 2 numbers are NaN or infinite"),
        (foreign, f"{foreign} is not a safetensors file"),
        (csv, f"{csv}: row 2 has no weight"),
        (text, f"{text} must be a .safetensors file of weights or a .csv file of edges"),
        (tmp_path / "none.csv", f"{tmp_path / 'none.csv'} is no file"),
        (tmp_path, f"{tmp_path} is no file"),
    ):
        assert failed(["measure", str(path)], capsys).startswith(message)


# ---- prune


@pytest.fixture(scope="module")
def trained(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4 experts after some steps."""
    path = tmp_path_factory.mktemp("trained") / "run.safetensors"
    model = ModelConfig.on_dial(8, 0.75).replace(n_heads=2)
    run = RunConfig(budget=1e9, corpus=str(corpus_file), eval_tokens=1_024, device="cpu", batch_size=4)
    work = training.Training(model, run)
    for _ in range(20):
        work.step()
    work.save(path)
    return path


@pytest.mark.parametrize("method", prune_file.METHODS)
def test_prune(method: str, trained: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "pruned.safetensors"
    data = answer(["prune", str(trained), "--method", method, "--out", str(out)], capsys)
    assert (data["method"], data["sparsity"], data["out"]) == (method, 0.5, str(out))
    changed = {part for part, left in data["nonzeros"].items() if left != data["weights"][part]}
    assert changed == (
        {"attention"} if method == "heads" else {"routed"} if method == "neurons"
        else {"routed", "router"} if method in prune_file.OF_EXPERTS else {"attention", "routed"}
    )  # fmt: skip
    prunable = ("attention", "routed") if method == "magnitude" else changed
    before, left = (sum(data[key][part] for part in prunable) for key in ("weights", "nonzeros"))
    assert left * 2 == before
    assert data["n_experts"] == (2 if method in prune_file.OF_EXPERTS else 4)
    assert data["flops_skipping_zeros"] < data["flops"]
    state = checkpoint.peek(out)
    assert state is not None
    again = training.Training(ModelConfig(**state["model"]), RunConfig(**state["run"]), checkpoint_path=out)
    assert again.evaluate() == data["loss_after"]
    assert again.steps_done == 20
    assert not again.done
    again.step()
    assert nonzeros(again.model)["routed"] == data["nonzeros"]["routed"]


def test_prune_twice_and_read_it(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    """A pruned checkpoint can be measured, and pruned again: zeros stay zeros."""
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    answer(["prune", str(trained), "--method", "magnitude-layer", "--sparsity", "0.75", "--out", str(first)], capsys)
    data = answer(["measure", str(first)], capsys)
    assert data["tensors"]["model.layers.0.attention.qkv"]["l0"] == pytest.approx(0.75)
    data = answer(["prune", str(first), "--method", "experts-load", "--out", str(second)], capsys)
    assert (
        data["nonzeros"]["routed"] * 8
        == answer(["prune", str(trained), "--method", "wanda"], capsys)["weights"]["routed"]
    )
    state = checkpoint.peek(second)
    assert state is not None
    again = training.Training(ModelConfig(**state["model"]), RunConfig(**state["run"]), checkpoint_path=second)
    again.step()
    assert nonzeros(again.model)["routed"] == data["nonzeros"]["routed"]


def test_prune_in_words(trained: Path, capsys: Capture) -> None:
    assert main(["prune", str(trained), "--method", "2:4"]) == 0
    text = capsys.readouterr().out
    assert all(words in text for words in ("2:4, sparsity 0.5: held-out loss", "nats per byte", "routed", "50.0%"))
    assert "written" not in text


def test_prune_mistakes(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    for path, method, sparsity, message in (
        (trained, "wander", "0.5", "method='wander' is not known: use one of magnitude, magnitude-layer, wanda"),
        (foreign, "wanda", "0.5", f"{foreign} is no Sparsity Lab checkpoint: name a file"),
        (tmp_path / "none", "wanda", "0.5", f"{tmp_path / 'none'} is no Sparsity Lab checkpoint"),
        (trained, "wanda", "1", "sparsity=1.0 must be at least 0 and below 1"),
        (trained, "2:4", "0.7", "sparsity=0.7: 2:4 keeps two of four, use 0.5"),
        (trained, "merge", "0.9", "n_experts=0 must be from 2 to 4"),
    ):
        assert failed(["prune", str(path), "--method", method, "--sparsity", sparsity], capsys).startswith(message)


# ---- guesses


def made(key: str, hit: bool | None) -> Guess:
    result = None if hit is None else "yes" if hit else "no"
    return Guess(key, "Will it?", "yes", None, 0.9, "2030", result=result, hit=hit)


def test_guesses_are_shown_with_their_score_and_written(tmp_path: Path, capsys: Capture) -> None:
    assert main(["guesses"]) == 0
    assert "no guesses yet" in capsys.readouterr().out
    for guess in (made("a", True), made("b", False), made("c", None)):
        keep_guess(guess)
    assert main(["guesses", "--csv", str(tmp_path / "ada.csv")]) == 0
    out, err = capsys.readouterr()
    assert out.count("Will it?") == 3
    assert "3 guesses, 2 of them counted: Brier score 0.410 (always 50 % sure: 0.25)" in out  # (0.01 + 0.81) / 2
    assert "ada.csv" in err
    assert len(read_guesses(tmp_path / "ada.csv")) == 3


def test_guesses_of_a_class_are_joined(tmp_path: Path, capsys: Capture) -> None:
    for name in ("ada", "=ben"):
        (tmp_path / f"{name}.csv").write_text(guesses_csv(guess_table([made("a", True)])))
    (tmp_path / "foreign.csv").write_text("a,b\n")
    arguments = ["guesses", "--class", str(tmp_path), "--csv", str(tmp_path / "out/class.csv")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "2 students, 2 guesses, 2 of them counted: Brier score 0.010" in out
    assert "left out: foreign.csv" in err
    assert pd.read_csv(tmp_path / "out/class.csv")["student"].tolist() == ["'=ben", "ada"]
    assert "is not a folder" in failed(["guesses", "--class", str(tmp_path / "nowhere")], capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no guesses" in failed(["guesses", "--class", str(tmp_path / "empty")], capsys)


# ---- terminals, pipes and strange files


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sparsity_lab", *words]


@pytest.mark.parametrize(
    "words",
    [["fit", "--help"], ["cache", "deepseek-v3", "--tokens", "1000"], ["measure", "é.csv"], ["measure", "edges.csv"]],
)
def test_a_terminal_that_shows_ascii_alone(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("source,target\na,b\nb,c\n")
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for terminal in ({"PYTHONIOENCODING": "ascii"}, plain):
        done = subprocess.run(
            command(*words), env=os.environ | terminal, cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 2 * ("é.csv" in words)
        assert b"Error" not in done.stderr
        assert (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize("words", [["count", "deepseek-v3", "--json"], ["--help"], ["cost", "gpt2", "--tokens", "1e9"]])
def test_nobody_reads_the_output(words: list[str]) -> None:
    """As of other commands in a pipe, nothing is heard of it."""
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(command(*words), env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_strange_files_are_named_in_one_line_each(tmp_path: Path, capsys: Capture) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for shipped in sorted((DATA / "isoflop").glob("[0-3]*.json")):
        shutil.copy(shipped, runs)
    words = ["fit", str(runs), "--law", "reduced", "--n-layers", "2", "--top-k", "1", "--bootstraps", "2"]
    wanted = answer(words, capsys)
    first = min(runs.glob("*.json"))
    values = json.loads(first.read_text())
    (runs / "ffffffffffffffff.json").write_text(first.read_text())
    os.mkfifo(runs / "pipe.json")
    other = values | {"seed": 99, "run": values["run"] | {"seed": 99}, "corpus": {"name": "x", "fingerprint": "0" * 64}}
    path = RunStore(runs).save(Record(**other))

    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == wanted
    said = sorted(err.splitlines())
    assert len(said) == 3
    for name, why in (
        (path.name, "its text 'x' (00000000) is not that of most runs here"),
        ("ffffffffffffffff.json", f"it is of the run {first.stem}"),
        ("pipe.json", "is no regular file"),
    ):
        [line] = [line for line in said if line.startswith(f"sparsity-lab: skipped {runs / name}: ")]
        assert why in line


def test_what_the_system_refuses_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def full(options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsity_lab.cli.count.run", full)
    assert main(["count", "gpt2"]) == 1
    assert capsys.readouterr().err == "sparsity-lab: [Errno 28] No space left on device\n"


def test_prune_asks_for_a_share_before_it_loads_anything(capsys: Capture) -> None:
    for sparsity in ("nan", "-1", "inf"):
        message = failed(["prune", "nothing.safetensors", "--method", "wanda", "--sparsity", sparsity], capsys)
        assert message.startswith(f"sparsity={float(sparsity)} must be at least 0 and below 1")


def test_prune_moves_no_checkpoint(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    """Also where the text has changed since."""
    text = tmp_path / "text.txt"
    text.write_text("a text that will change\n" * 300)
    work = training.Training(ModelConfig.on_dial(8, 0.75), RunConfig(budget=1e8, corpus=str(text), device="cpu"))
    work.save(tmp_path / "run.safetensors")
    text.write_text("another text than before\n" * 300)
    message = failed(["prune", str(tmp_path / "run.safetensors"), "--method", "wanda"], capsys)
    assert "is of another run: it has read another text" in message
    assert (tmp_path / "run.safetensors").exists()


def test_a_run_whose_text_has_changed_starts_anew(tiny: list[str], tmp_path: Path, capsys: Capture) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "run.safetensors"
    text.write_text("a text that will change\n" * 300)
    words = [*tiny, "--corpus", str(text), "--checkpoint", str(path), "--json"]
    assert main(words) == 0
    text.write_text("another text than before\n" * 300)
    capsys.readouterr()
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert f"sparsity-lab: checkpoint {path} is of another run: it has read another text" in err
    assert "and the run starts anew" in err
    assert sorted(each.suffix for each in tmp_path.glob("run.*")) == [".aside", ".safetensors"]


def test_columns_of_a_table_do_not_shift(tmp_path: Path, capsys: Capture) -> None:
    """Pandas would take the first column for the names of rows."""
    path = tmp_path / "edges.CSV"
    path.write_text("source,target,weight\na,b,1,7\nb,c,2,8\n")
    assert "can't be read as a table" in failed(["measure", str(path)], capsys)
    path.write_text("source,target,weight\na,b,1\nb,c,2\n")
    assert answer(["measure", str(path)], capsys)["edges"] == 2
    path.write_text("loss,params_total,tokens\n3.0,1e6,1e9,7\n")
    assert "can't be read as a table" in failed(["fit", str(path)], capsys)


def test_no_runs_of_minus_one_seed(capsys: Capture) -> None:
    message = failed(["notebooks", "03", "-p", "seeds", "-1"], capsys)
    assert message == "03_inside_the_experts.ipynb: parameter seeds=-1 must be at least 1, e.g. 3"
