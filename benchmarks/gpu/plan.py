"""The steps of `make gpu`, in the order of their worth, with the seconds that each may take."""

from dataclasses import dataclass

TOTAL = 480  # seconds for all


@dataclass(frozen=True)
class Step:
    name: str
    seconds: int
    question: str


STEPS = (
    Step("install", 40, "What is missing here, and can it be installed?"),
    Step("device", 20, "Which GPU, driver and versions, and how fast are plain products and copies?"),
    Step("tests", 40, "Do the tests marked `cuda` pass?"),
    Step("backends", 35, "Do naive, grouped and MegaBlocks give the same outputs and gradients?"),
    Step("training", 45, "Do a dense and a sparse model learn on the GPU what they learn on the processor?"),
    Step("decode", 35, "What does a cached token cost with MLA, naive and absorbed, with MHA and in transformers?"),
    Step("speed", 60, "How fast are a layer and a step beside dense, plain torch and transformers, and at which MFU?"),
    Step("worth", 35, "From which width is the GPU faster than the processor?"),
    Step("many", 50, "How much do many small runs gain that share the GPU?"),
    Step("memory", 25, "Is the peak of memory what `sparsity_lab.accounting` predicts?"),
    Step("pieces", 90, "Do MegaBlocks' own compiled pieces build, and do they give the same numbers?"),
)  # fmt: skip


def plan() -> str:
    """Returns the steps as text."""
    lines = [f"{step.name:<9} {step.seconds:>3} s  {step.question}" for step in STEPS]
    return "\n".join([*lines, f"{'in all':<9} {TOTAL:>3} s  at most; a step that ends sooner leaves its time unused"])
