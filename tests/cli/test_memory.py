"""`sparsity-lab memory`: what the arithmetic says, asked for as people ask."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.fits import Split, serving, training
from sparsity_lab.accounting.formats import FORMATS
from sparsity_lab.accounting.presets import preset
from sparsity_lab.cli.main import main

Capture = pytest.CaptureFixture[str]


def ask(words: str, capsys: Capture) -> dict[str, Any]:
    assert main(["memory", *words.split(), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_does_it_fit(capsys: Capture) -> None:
    words = "deepseek-v3 --device h200 --gpus 8 --context 32768 --batch 16"
    assert main(["memory", *words.split()]) == 0
    out = capsys.readouterr().out.split("\n\nNote: ")[0]  # of a preset
    assert out in Path("docs/memory.md").read_text(encoding="utf-8"), "the example that it explains"
    assert out.splitlines() == [
        "deepseek-v3 on 8 × h200, split by tensor 8",
        "serving 16 × 32,768 tokens; weights fp8, cache bf16",
        "",
        "Each GPU holds                   GB       GiB",
        "weights                       84.33     78.54",
        "cache                         36.84     34.31",
        "activations                    0.17      0.16",
        "total                        121.34    113.01",
        "usable, 90% of memory        135.68    126.36",
        "",
        "It fits, with 14.34 GB (13.35 GiB) per GPU to spare.",
        "Largest batch at 32,768 tokens: 22; longest context for batch 16: 45,518 of the model's 163,840.",
    ]
    data = ask(words, capsys)
    held = serving(preset("deepseek-v3").config, Split(8), FORMATS["fp8"], "bf16", 32768, 16)
    assert data["each_gpu"] == vars(held)
    assert data["usable"] == 0.9 * data["memory"] == 0.9 * device("h200").memory
    for more in ("--batch 22", "--context 45518"):
        assert ask(f"{words} {more}", capsys)["fits"]
    for more in ("--batch 23", "--context 45519"):
        assert not ask(f"{words} {more}", capsys)["fits"]


def test_the_vision_part_comes_on_top(capsys: Capture) -> None:
    """Cut like the rest, and not compressed; totals are those of the text part."""
    for words, held in (("--gpus 8", 2), ("--gpus 8 --weights int4", 2), ("--gpus 8 --tensor 8 --weights fp32", 4)):
        data = ask(f"llama-4-scout {words}", capsys)
        assert data["vision"] == preset("llama-4-scout").shape.vision * held / 8
        assert data["total"] == sum(data["each_gpu"].values())
    assert main(["memory", "llama-4-scout", "--gpus", "8"]) == 0
    line = "Its vision part takes 0.22 GB (0.20 GiB) more per GPU, and is not in these numbers."
    assert line in capsys.readouterr().out
    assert ask("gpt-oss-20b", capsys)["vision"] == 0


def test_it_does_not_fit(capsys: Capture) -> None:
    assert main(["memory", "llama-3.1-70b", "--device", "a100"]) == 0
    *_, last_but_one, last = capsys.readouterr().out.splitlines()
    assert last_but_one == "It does not fit: 68.19 GB (63.51 GiB) per GPU too much; 2 GPUs would do (tensor 2)."
    assert last == "No context fits with a batch of 1."
    assert ask("llama-3.1-70b --device a100 --gpus 2", capsys)["fits"]
    big = "llama-4-maverick --device a100 --context 4096"  # 40 heads
    assert ask(big, capsys)["needed"] == {"gpus": 16, "tensor": 8, "pipeline": 2, "data": 1, "expert": None}
    assert ask(f"{big} --tensor 8 --pipeline 2", capsys)["fits"]
    assert not ask(f"{big} --tensor 8", capsys)["fits"]
    impossible = "gpt2 --device t4 --context 1024 --batch 1048576"
    assert ask(impossible, capsys)["needed"] is None
    assert main(["memory", *impossible.split()]) == 0
    assert "no split that was tried would do" in capsys.readouterr().out


def test_training(capsys: Capture) -> None:
    words = "llama-3.1-8b --train --gpus 8 --zero 3 --recompute layers --context 4096"
    data = ask(words, capsys)
    held = training(preset("llama-3.1-8b").config, Split(data=8), "bf16", 3, "layers", 4096, 8)
    assert data["each_gpu"] == vars(held)
    assert (data["batch"], data["data"], data["tensor"]) == (8, 8, 1), "one sequence for each copy"
    assert main(["memory", *words.split()]) == 0
    out = capsys.readouterr().out
    assert "training 8 × 4,096 tokens; weights bf16, ZeRO 3, recomputing layers" in out
    assert "optimizer" in out
    assert "cache" not in out


def test_what_training_would_need(capsys: Capture) -> None:
    words = "llama-3.1-8b --train --context 4096"
    for more, split in (("", (4, 1, 1)), ("--zero 1", (2, 1, 2)), ("--zero 3 --tensor 1", (1, 1, 4))):
        needed = ask(f"{words} {more}", capsys)["needed"]
        assert (needed["tensor"], needed["pipeline"], needed["data"]) == split, more
        ways = " ".join(f"--{way} {needed[way]}" for way in ("tensor", "pipeline", "data"))
        assert ask(f"{words} --batch 1 {more} {ways}", capsys)["fits"]
    assert ask(f"{words} --tensor 1 --pipeline 1", capsys)["needed"] is None


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("", (1, 1, 1, None)),
        ("--gpus 4", (4, 1, 1, None)),
        ("--gpus 8 --data 2", (4, 1, 2, None)),
        ("--gpus 8 --tensor 2 --pipeline 2 --data 2 --expert 4", (2, 2, 2, 4)),
        ("--tensor 2 --data 4 --expert 8", (2, 1, 4, 8)),
        ("--gpus 8 --train", (1, 1, 8, None)),
        ("--gpus 8 --train --tensor 4", (4, 1, 2, None)),
        ("--gpus 8 --train --tensor 2 --data 2 --pipeline 2", (2, 2, 2, None)),
    ],
)
def test_splits(words: str, split: tuple[int | None, ...], capsys: Capture) -> None:
    data = ask(f"mixtral-8x7b {words}", capsys)
    assert tuple(data[way] for way in ("tensor", "pipeline", "data", "expert")) == split
    assert data["gpus"] == int(split[0] or 1) * int(split[1] or 1) * int(split[2] or 1)


def test_a_file_says_how_it_is_stored_and_how_long_it_reads(tmp_path: Path, capsys: Capture) -> None:
    settings = preset("qwen3-30b-a3b").settings | {
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for path in (tmp_path, tmp_path / "config.json"):
        data = ask(f"{path} --device rtx4090 --context 100000 --cache q8_0", capsys)
        assert (data["weights"], data["cache"]) == ("awq 4-bit", "q8_0")
        assert data["models_longest_context"] == 131_072
        assert data["each_gpu"]["cache"] == 100_000 * 48 * 2 * 4 * 128 * 34 / 32
    assert ask(f"{tmp_path} --weights bf16", capsys)["total"] > 3 * data["each_gpu"]["weights"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--context 131073", "context=131073 must be a whole number from 1 to the model's 131072"),
        ("--context 0.5", "context=0.5 must be a whole number from 1 to the model's 131072"),
        ("--context nan", "context=nan must be a whole number"),
        ("--batch 0", "batch=0 must be from 1 to"),
        ("--usable 0", "usable=0 must be above 0 and at most 1"),
        ("--usable nan", "usable=nan must be above 0 and at most 1"),
        ("--gpus 0", "gpus=0 must be at least 1"),
        ("--pipeline -1", "pipeline=-1 must be at least 1"),
        ("--gpus 8 --tensor 4", "gpus=8 must be tensor × pipeline × data = 4 × 1 × 1"),
        ("--gpus 3 --data 2", "gpus=3 must be tensor × pipeline × data = 1 × 1 × 2 or a multiple of it"),
        ("--tensor 3", "tensor=3 must divide the model's 32 heads"),
        ("--expert 2 --data 2", "expert=2: this model has no experts to spread"),
        ("--weights fp7", "weights='fp7' is not known: use one of fp32, bf16"),
        ("--cache fp7", "cache='fp7' is not known: use one of fp32, bf16"),
        ("--zero 3", "zero=3 belongs to training"),
        ("--recompute layers", "recompute=layers belongs to training"),
        ("--train --cache fp8", "cache=fp8 belongs to serving"),
        ("--device h1000", "device='h1000' is not known"),
        ("--train --zero 4", "zero=4 must be 0, 1, 2 or 3"),
        ("--train --recompute all", "recompute='all' is not known: use one of nothing, scores, layers"),
        ("--train --weights fp8", "weights='fp8' is not known: use one of fp32, bf16, fp16"),
    ],
)
def test_mistakes(words: str, message: str, capsys: Capture) -> None:
    assert main(["memory", "llama-3.1-8b", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sparsity-lab: {message}")
    assert err.count("\n") == 1
