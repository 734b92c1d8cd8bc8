"""What one more token costs when many are cached: multi-head latent attention, DeepSeek-V2-Lite's, in both forms and by
transformers, beside multi-head attention of the same width. One layer, bfloat16."""

import statistics
from collections.abc import Iterator

import torch

from benchmarks.agreement import TOLERANCE, difference
from benchmarks.decode import SHAPE, Pass, decoder, transformers_step
from benchmarks.timing import Row, ratio, take_turns
from sparsity_lab.accounting.memory import attention_twins, cache_bytes

CASES = {"cuda": ((4096, 1), (4096, 16), (16_384, 16)), "cpu": ((64, 1),)}  # tokens held, sequences
DTYPE = torch.bfloat16
SECONDS = {"cuda": 2.0, "cpu": 0.0}


@torch.no_grad()
def rows(device: str) -> Iterator[Row | str]:
    torch.manual_seed(0)
    mha_config, said = attention_twins(SHAPE)["mha"], ""
    for length, batch in CASES[device]:
        what = f"{length:,} tokens, batch {batch}"
        mla = decoder(SHAPE, batch, length, device, DTYPE)
        mha = decoder(mha_config, batch, length, device, DTYPE)
        steps: dict[str, Pass] = {}
        try:
            steps["transformers"] = transformers_step(mla)
        except (ImportError, AssertionError, RuntimeError) as error:
            yield Row(f"{what}: transformers", "", f"{type(error).__name__}: {error}"[:200], False)

        def form(name: str, step: Pass = mla.step, layer: torch.nn.Module = mla.layer) -> Pass:
            def run() -> object:
                layer.form = name
                return step()

            return run

        steps |= {"absorbed": form("absorbed"), "naive": form("naive"), "MHA": mha.step}
        found = difference(steps["naive"](), steps["absorbed"]())
        yield Row(
            f"{what}: naive beside absorbed", f"≤ {TOLERANCE[DTYPE]:.0e}", f"{found:.1e}", found <= TOLERANCE[DTYPE]
        )

        times = take_turns(steps, SECONDS[device], block=5, device=device)
        saved = cache_bytes(mha_config, length) / cache_bytes(SHAPE, length)
        for name in steps:
            measured = f"{batch / statistics.median(times[name]):,.0f} tokens/s"
            if name != "absorbed":
                measured += f"; {ratio(times, name, 'absorbed'):.2f} times absorbed's time"
            yield Row(f"{what}: {name}", "", measured, None)
        over = ratio(times, "MHA", "absorbed")
        said = (
            f"With {what}, MHA takes {over:.1f} times as long as absorbed MLA, whose cache is {saved:.1f} times smaller"
        )
    yield said
