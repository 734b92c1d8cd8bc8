"""Published scaling laws, each in its own terms: equation, coefficients, base of logarithms, what N counts, where it
was fitted, and where to read it.

    N, D     parameters (each law counts its own), training tokens
    S, E     sparsity by experts (E − K)/E; number of experts, one of which is active for each token
    G, A     granularity (Krajewski: d_ff/d_expert; Ling: twice d_model/d_expert); share of experts that are active
    C        training FLOPs
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsity_lab.config import one_of
from sparsity_lab.laws import power_law
from sparsity_lab.laws.power_law import Array

Share = Callable[[Array], Array | float]

# The values that a variable can have at all: a test, and how an error message puts it.
DOMAINS: dict[str, tuple[Callable[[Array], NDArray[np.bool_]], str]] = {
    **dict.fromkeys(("N", "D", "C", "G"), (lambda x: (x > 0) & (x < np.inf), "above 0 and finite")),
    "E": (lambda x: (x >= 1) & (x < np.inf), "at least 1 and finite"),
    "S": (lambda x: (x >= 0) & (x < 1), "at least 0 and below 1"),
    "A": (lambda x: (x > 0) & (x <= 1), "above 0 and at most 1"),
}


def check_possible(values: Mapping[str, Array]) -> None:
    """Raises ValueError for a value that its variable cannot have."""
    for name, value in values.items():
        possible, words = DOMAINS[name]
        if not np.all(possible(value)):
            raise ValueError(f"{name}={value[~possible(value)].flat[0]:g} must be {words}")


class LawValue(NamedTuple):
    """The value of a law, in the shape of its variables, and reasons not to trust it."""

    value: Array
    warnings: list[str]


@dataclass(frozen=True)
class PublishedLaw:
    """A published law. ``dataclasses.replace(law, coefficients=…)`` is the same equation with coefficients of yours."""

    name: str
    equation: str
    coefficients: Mapping[str, float]
    log: str  # base of the logarithms in the equation
    predicts: str
    n_means: str  # "" if the law has no N
    variables: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float] | None]  # where it was fitted; None: not on record here
    source: str
    status: str  # checked against numbers of the paper, inferred, or second-hand
    formula: Callable[..., Array]
    # What N would be if it counted "total" or "active" parameters, as a share of N given the sparsity.
    counts: Mapping[str, Share]
    fixed_sparsity: float | None = None  # of every model that the law was fitted to, if S is not a variable
    notes: str = ""

    def __call__(self, **variables: ArrayLike) -> LawValue:
        """Evaluates the law for numbers or arrays that broadcast. Outside the range of its fit, a warning names the
        variable, its value and the range. Raises ValueError for a missing, unknown or impossible variable."""
        values = self._checked(variables)
        return LawValue(np.asarray(self.formula(self.coefficients, **values)), self.warnings(**values))

    def warnings(self, **variables: ArrayLike) -> list[str]:
        """Returns a line for each variable that lies beyond the range of the fit. A range of C applies to 6·N_a·D."""
        values = self._checked(variables)
        if "C" in self.ranges and "C" not in values:
            values["C"] = 6 * values["N"] * self.share("active", values.get("S", 0.0)) * values["D"]
        lines = []
        for name, limits in self.ranges.items():
            label = "C = 6·N_a·D" if name == "C" and "C" not in self.variables else name
            if limits is None:
                lines.append(f"{label}: the range in which {self.name} was fitted is not on record")
                continue
            low, high = limits
            for far in sorted({float(values[name].min()), float(values[name].max())}):
                if not low * (1 - 1e-6) <= far <= high * (1 + 1e-6):  # 1e21 FLOPs, rounded on the way, are 1e21
                    lines.append(f"{label} = {far:.4g} is outside {low:g} to {high:g}, where {self.name} was fitted")
        return lines

    def share(self, what: str, sparsity: ArrayLike = 0.0) -> Array:
        """Returns "total" or "active" parameters as a share of this law's N. Raises ValueError if it is not known."""
        if what not in self.counts:
            known = f"as {' or '.join(self.counts)} parameters" if self.counts else "in no other way"
            raise ValueError(f"{self.name} can't say N as {what!r}: its N ({self.n_means or 'none'}) is known {known}")
        return np.asarray(self.counts[what](np.asarray(sparsity, float)))

    def _checked(self, variables: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if set(variables) != set(self.variables):
            raise ValueError(f"{self.name} takes {', '.join(self.variables)}; got {', '.join(variables) or 'nothing'}")
        values = {name: np.asarray(value, float) for name, value in variables.items()}
        check_possible(values)
        return values


def published_law(name: str) -> PublishedLaw:
    """Returns the law of that name. Raises ValueError for an unknown one."""
    one_of("law", name, LAWS)
    return LAWS[name]


# ---- The equations. k: coefficients. Those of Abnar and Hoffmann are in `power_law`, because they are also fitted.


def _saturated(above_least: Array, start: float, most: float) -> Array:
    """Ê of Clark et al. 2022: ``start`` at the least x, then growing as x does, and never above ``most``."""
    return 1 / (1 / (above_least + 1 / (1 / start - 1 / most)) + 1 / most)


def _clark(k: Mapping[str, float], N: Array, E: Array) -> Array:
    """Clark et al. 2022 (arXiv 2202.01169), the bilinear form in log N and log Ê, with the coefficients of S-BASE."""
    n, e = np.log10(N), np.log10(_saturated(E - 1, k["E_start"], k["E_max"]))
    return np.asarray(10 ** (k["a"] * n + k["b"] * e + k["c"] * n * e + k["d"]))


def _krajewski(k: Mapping[str, float], N: Array, D: Array, G: Array) -> Array:
    """Krajewski et al. 2024 (arXiv 2402.07871), the joint law with granularity."""
    return k["c"] + (k["g"] / G ** k["gamma"] + k["a"]) / N ** k["alpha"] + k["b"] / D ** k["beta"]


def _ludziejewski(k: Mapping[str, float], N: Array, D: Array, E: Array) -> Array:
    """Ludziejewski et al. 2025 (arXiv 2502.05172), the joint law; the signs are those of exponents, not of divisors."""
    e = _saturated(E - 1, k["E_start"], k["E_max"])
    capacity = k["a"] * e ** k["delta"] * N ** (k["alpha"] + k["gamma"] * np.log(e))
    data = k["b"] * e ** k["omega"] * D ** (k["beta"] + k["zeta"] * np.log(e))
    return np.asarray(capacity + data + k["c"])


def _ling(k: Mapping[str, float], A: Array, G: Array, C: Array) -> Array:
    """Tian et al. 2025 (arXiv 2507.17702), the joint law of efficiency leverage: the FLOPs that a dense model needs for
    the same loss, divided by those of the sparse model."""
    g = np.log2(G)
    exponent = k["a"] + k["d"] * np.log10(C) + k["gamma"] * g**2 + k["beta"] * g
    return np.asarray(_saturated(A, k["A_start"], k["A_max"]) ** exponent)


def _frantar(k: Mapping[str, float], N: Array, D: Array, S: Array) -> Array:
    """Frantar et al. 2023 (arXiv 2309.08520), their joint law of weight sparsity."""
    capacity = (k["a_S"] * (1 - S) ** k["b_S"] + k["c_S"]) / N ** k["b_N"]
    return np.asarray(capacity + (k["a_D"] / D) ** k["b_D"] + k["c"])


# ---- The registry: formulas here, all else in published.toml

LOSS = "loss, nats per token"  # what all of these laws but one predict
DENSE: dict[str, Share] = {"total": np.ones_like, "active": np.ones_like}
# A block has 4·d² weights of attention and 64 times the 8·d² of a dense feed-forward part; one 64th of it is active.
KRAJEWSKI_ACTIVE = (4 + 8) / (4 + 8 * 64)

FORMULAS: dict[str, tuple[Callable[..., Array], dict[str, Share]]] = {  # and how N counts otherwise
    "abnar": (power_law.LAWS["abnar"].loss, {"total": np.ones_like, "active": lambda S: 1 - S}),
    "hoffmann": (power_law.LAWS["chinchilla"].loss, DENSE),
    "besiroglu": (power_law.LAWS["chinchilla"].loss, DENSE),
    "clark": (_clark, {}),
    "krajewski": (_krajewski, {"total": np.ones_like, "active": lambda S: np.full_like(S, KRAJEWSKI_ACTIVE)}),
    "ludziejewski": (_ludziejewski, {"active": np.ones_like}),
    "ling": (_ling, {}),
    "frantar": (_frantar, {}),
}


def _read_laws() -> dict[str, PublishedLaw]:
    laws = {}
    for name, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        formula, counts = FORMULAS[name]
        entry["variables"] = tuple(entry["variables"])
        entry["ranges"] = {variable: tuple(limits) or None for variable, limits in entry["ranges"].items()}
        laws[name] = PublishedLaw(name=name, formula=formula, counts=counts, **entry)
    return laws


LAWS = _read_laws()
