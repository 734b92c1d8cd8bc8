"""Published scaling laws, each in its own terms: equation, coefficients, base of logarithms, what N counts, where it
was fitted, and where to read it.

    N, D     parameters (each law counts its own), training tokens
    S, E     sparsity by experts (E − K)/E; number of experts, one of which is active for each token
    G, A     granularity (Krajewski: d_ff/d_expert; Ling: twice d_model/d_expert); share of experts that are active
    C        training FLOPs
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Share = Callable[[Array], Array | float]


# The values that a variable can have at all: a test, and how an error message puts it.
DOMAINS: dict[str, tuple[Callable[[Array], Mask], str]] = {
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
        """Evaluates the law. Outside the range of its fit, a warning names the variable, its value and the range.

        Variables are numbers or arrays that broadcast. Raises ValueError for a missing, unknown or impossible one.
        """
        values = self._checked(variables)
        return LawValue(np.asarray(self.formula(self.coefficients, **values)), self.warnings(**values))

    def warnings(self, **variables: ArrayLike) -> list[str]:
        """Returns a line for each variable that lies beyond the range of the fit. A range of C applies to 6·N_a·D."""
        values = self._checked(variables)
        if "C" in self.ranges and "C" not in values:
            values["C"] = 6 * self.count("active", values["N"], values.get("S", 0.0)) * values["D"]
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

    def count(self, what: str, n: ArrayLike, sparsity: ArrayLike = 0.0) -> Array:
        """Converts this law's N to "total" or "active" parameters. Raises ValueError if the law does not say how."""
        return np.asarray(n, float) * self._share(what)(np.asarray(sparsity, float))

    def n_from(self, what: str, n: ArrayLike, sparsity: ArrayLike = 0.0) -> Array:
        """Converts "total" or "active" parameters to this law's N: the inverse of `count`."""
        return np.asarray(n, float) / self._share(what)(np.asarray(sparsity, float))

    def _share(self, what: str) -> Share:
        if what not in self.counts:
            known = f"as {' or '.join(self.counts)} parameters" if self.counts else "in no other way"
            raise ValueError(f"{self.name} can't say N as {what!r}: its N ({self.n_means or 'none'}) is known {known}")
        return self.counts[what]

    def _checked(self, variables: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if set(variables) != set(self.variables):
            raise ValueError(f"{self.name} takes {', '.join(self.variables)}; got {', '.join(variables) or 'nothing'}")
        values = {name: np.asarray(value, float) for name, value in variables.items()}
        check_possible(values)
        return values


def published_law(name: str) -> PublishedLaw:
    """Returns the law of that name. Raises ValueError for an unknown one."""
    if name not in LAWS:
        raise ValueError(f"law={name!r} is not known: use one of {', '.join(LAWS)}")
    return LAWS[name]


# ---- The equations. k: coefficients.


def _abnar(k: Mapping[str, float], N: Array, D: Array, S: Array) -> Array:
    """Abnar et al. 2025 (arXiv 2501.12370), Eq. 6 and its table of coefficients. λ is negative, so the third term falls
    as S grows; the fourth says how much of N sparsity costs."""
    return (
        k["a"] / N ** k["alpha"]
        + k["b"] / D ** k["beta"]
        + k["c"] / (1 - S) ** k["lambda"]
        + k["d"] / ((1 - S) ** k["delta"] * N ** k["gamma"])
        + k["e"]
    )


def _chinchilla(k: Mapping[str, float], N: Array, D: Array) -> Array:
    """Hoffmann et al. 2022 (arXiv 2203.15556), Eq. 10 of approach 3."""
    return k["E"] + k["A"] / N ** k["alpha"] + k["B"] / D ** k["beta"]


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


# ---- The registry

LOSS = "loss, nats per token"
CHINCHILLA = "L = E + A/N^α + B/D^β"
SATURATING = "1/Ê = 1/(E − 1 + (1/E_start − 1/E_max)⁻¹) + 1/E_max"
DENSE: dict[str, Share] = {"total": np.ones_like, "active": np.ones_like}
# A block has 4·d² weights of attention and 64 times the 8·d² of a dense feed-forward part; one 64th of it is active.
KRAJEWSKI_ACTIVE = (4 + 8) / (4 + 8 * 64)

LAWS: dict[str, PublishedLaw] = {
    law.name: law
    for law in (
        PublishedLaw(
            "abnar",
            "L = a/N^α + b/D^β + c/(1−S)^λ + d/((1−S)^δ·N^γ) + e",
            {
                "a": 16612.50, "b": 5455.67, "c": 0.4598, "d": 17.26, "e": 0.94,
                "alpha": 0.5962, "beta": 0.3954, "lambda": -0.1666, "delta": 0.1603, "gamma": 0.1595,
            },
            "none", LOSS, "total, with embeddings", ("N", "D", "S"),
            {"S": (0, 0.98), "C": (3e19, 1e21)},
            "Abnar et al. 2025, Parameters vs FLOPs, arXiv 2501.12370, Eq. 6", "checked", _abnar,
            {"total": np.ones_like, "active": lambda S: 1 - S},
            notes="Fitted to compute-optimal models alone. S = 0.98 was held out and is predicted with R² 68 %, "
            "against 99 % within the fit. S counts experts of feed-forward layers, so N_a = (1−S)·N ignores that "
            "attention and embeddings are always active.",
        ),
        PublishedLaw(
            "hoffmann", CHINCHILLA, {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
            "none", LOSS, "total, with embeddings", ("N", "D"),
            {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},
            "Hoffmann et al. 2022, Chinchilla, arXiv 2203.15556, Eq. 10", "checked", _chinchilla, DENSE, 0.0,
            "As printed, its optimum at Chinchilla's 5.76e23 FLOPs is 32B weights on 3.0T tokens, not the 70B on 1.4T "
            "that were trained; besiroglu is the correction.",
        ),
        PublishedLaw(
            "besiroglu", CHINCHILLA, {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
            "none", LOSS, "total, with embeddings", ("N", "D"),
            {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},
            "Besiroglu et al. 2024, Chinchilla scaling: a replication attempt, arXiv 2404.10102", "checked",
            _chinchilla, DENSE, 0.0, "Fitted again to Hoffmann's runs, read off a figure of their paper.",
        ),
        PublishedLaw(
            "clark", f"log L = a·log N + b·log Ê + c·log N·log Ê + d, {SATURATING}",
            {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "E_start": 1.847, "E_max": 314.478},
            "10", LOSS, "dense-equivalent", ("N", "E"),
            {"N": (5e6, 1.3e9), "E": (1, 512)},
            "Clark et al. 2022, Unified scaling laws for routed language models, arXiv 2202.01169, S-BASE", "checked",
            _clark, {},
            notes="N is that of the dense model into which the experts were put. D was 130B tokens for every model, so "
            "the law says nothing about fewer or more.",
        ),
        PublishedLaw(
            "krajewski", "L = c + (g/G^γ + a)/N^α + b/D^β",
            {"a": 18.1, "b": 30.8, "c": 0.47, "g": 2.1, "alpha": 0.115, "beta": 0.147, "gamma": 0.58},
            "none", LOSS, "total, without embeddings", ("N", "D", "G"),
            {"N": (1.29e8, 3.7e9), "D": (1.6e10, 1.3e11), "G": (1, 16)},
            "Krajewski et al. 2024, Scaling laws for fine-grained mixture of experts, arXiv 2402.07871", "checked",
            _krajewski, {"total": np.ones_like, "active": lambda S: np.full_like(S, KRAJEWSKI_ACTIVE)}, 63 / 64,
            "Every model has 64·G experts, and G of them are active. The law leaves out the cost of routing, which is "
            "what bounds G in the paper; by the law alone a larger G is always better.",
        ),
        PublishedLaw(
            "ludziejewski", f"L = a·Ê^δ·N^(α + γ·ln Ê) + b·Ê^ω·D^(β + ζ·ln Ê) + c, {SATURATING}",
            {
                "a": 35.91, "b": 35.98, "c": 1.3637, "alpha": -0.1889, "beta": -0.1775, "gamma": 0.0098,
                "delta": -0.2285, "omega": 0.5529, "zeta": -0.0259, "E_start": 2.0732, "E_max": 290.4521,
            },
            "e", LOSS, "active, with embeddings", ("N", "D", "E"),
            {"N": (0, 2.7e9), "D": None, "E": (1, 32)},
            "Ludziejewski et al. 2025, Joint MoE scaling laws, arXiv 2502.05172", "checked", _ludziejewski,
            {"active": np.ones_like},
            notes="Total parameters depend on the shape of the model and don't follow from N and E alone.",
        ),
        PublishedLaw(
            "ling", "EL = Â^(a + d·log10 C + γ·(log2 G)² + β·log2 G), 1/Â = 1/(A + (1/A_start − 1/A_max)⁻¹) + 1/A_max",
            {"a": 1.23, "d": -0.0761, "gamma": 0.0167, "beta": -0.117, "A_start": 0.0163, "A_max": 5.28e16},
            "10 of C, 2 of G: inferred, because the paper writes log for both",
            "efficiency leverage", "", ("A", "G", "C"),
            {"A": (1 / 128, 1), "G": (2, 16), "C": (3e18, 6e20)},
            "Tian et al. 2025, Towards greater leverage, arXiv 2507.17702", "inferred", _ling, {},
            notes="It does not predict a loss but compares FLOPs at equal loss. With these bases it gives 7.24 at "
            "A = 3.1 %, G = 12, C = 1e22, where the paper says more than 7. With E_s shared experts, "
            "A = (E_a + E_s)/(E + E_s).",
        ),
        PublishedLaw(
            "frantar", "L = (a_S·(1−S)^b_S + c_S)/N^b_N + (a_D/D)^b_D + c",
            {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.90e8, "b_D": 0.203, "c": 0.651},
            "none", LOSS, "non-zero", ("N", "D", "S"),
            {"N": (0, 8.5e7), "D": None, "S": (0, 0.875)},
            "Frantar et al. 2023, Scaling laws for sparsely-connected foundation models, arXiv 2309.08520, T5 on C4",
            "second-hand", _frantar, {},
            notes="Coefficients from others' summaries of the paper, not from the paper. S is the share of weights "
            "that gradual pruning set to zero, not of experts. Training costs more than 6·N·D because it begins dense.",
        ),
    )
}  # fmt: skip
