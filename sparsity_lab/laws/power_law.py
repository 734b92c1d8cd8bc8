"""Forms of laws. Each is a sum of powers, L = Σ_t exp(X_t·θ), so one loss and one gradient serve all: θ holds the
logarithms of the terms' multipliers and the exponents, X_t the logarithms of what is raised to them.

R runs, T terms, P coefficients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsity_lab.config import one_of

Array = npt.NDArray[np.float64]

# Ranges of the logarithm of a multiplier, and of exponents by what is raised to them.
Ranges = tuple[tuple[float, float], Mapping[str, tuple[float, float]]]
# At the centre of the runs a term contributes from 1e-4 nats, which is nothing, to 20.
BOUNDS: Ranges = (math.log(1e-4), math.log(20)), {"N": (0.0, 3.0), "D": (0.0, 3.0), "S": (-2.0, 2.0)}
# Starts are drawn from the exponents of Abnar's grid.
STARTS: Ranges = (math.log(0.03), math.log(3)), {"N": (0.0, 1.25), "D": (0.0, 1.25), "S": (-1.0, 1.0)}


@dataclass(frozen=True)
class PowerLaw:
    """A sum of powers. ``terms`` maps each multiplier to the exponents of its term, and each exponent to its base: N
    stands for 1/N, D for 1/D, S for 1/(1 − S)."""

    name: str
    equation: str
    terms: Mapping[str, Mapping[str, str]]

    @property
    def exponents(self) -> dict[str, str]:
        """All exponents and their bases."""
        return {name: of for term in self.terms.values() for name, of in term.items()}

    @property
    def names(self) -> list[str]:
        """The names of the coefficients in θ: multipliers, then exponents."""
        return [*self.terms, *self.exponents]

    def design(self, logs: Mapping[str, Array]) -> Array:
        """Builds X (R, T, P) from the logarithms (R,) of 1/N, 1/D and 1/(1 − S)."""
        names = self.names
        x_RTP = np.zeros((len(logs["N"]), len(self.terms), len(names)))
        for t, (multiplier, exponents) in enumerate(self.terms.items()):
            x_RTP[:, t, names.index(multiplier)] = 1
            for exponent, of in exponents.items():
                x_RTP[:, t, names.index(exponent)] = logs[of]
        return x_RTP

    def loss(self, k: Mapping[str, float], **variables: Array) -> Array:
        """Computes L of N, D and S with the coefficients ``k`` of the equation as it is written."""
        bases = {name: 1 - x if name == "S" else x for name, x in variables.items()}
        powers = {m: math.prod(bases[of] ** k[name] for name, of in term.items()) for m, term in self.terms.items()}
        return np.asarray(sum(k[multiplier] / power for multiplier, power in powers.items()))

    def box(self, ranges: Ranges) -> Array:
        """Returns the lowest and the highest θ: (2, P)."""
        multiplier, exponent = ranges
        return np.array([*[multiplier] * len(self.terms), *(exponent[of] for of in self.exponents.values())]).T


LAWS = {
    law.name: law
    for law in (
        # Abnar et al. 2025 (arXiv 2501.12370), Eq. 6. In the paper λ is negative, so the third term falls as S grows;
        # the fourth says how much of N sparsity costs.
        PowerLaw(
            "abnar",
            "a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma) + e",
            {"a": {"alpha": "N"}, "b": {"beta": "D"}, "c": {"lambda": "S"}, "d": {"delta": "S", "gamma": "N"}, "e": {}},
        ),
        PowerLaw(  # the same with one term for the model, for runs that cannot tell three apart
            "reduced",
            "b/D^beta + d/((1-S)^delta N^gamma) + e",
            {"b": {"beta": "D"}, "d": {"delta": "S", "gamma": "N"}, "e": {}},
        ),
        PowerLaw(  # Hoffmann et al. 2022 (arXiv 2203.15556), Eq. 10 of approach 3
            "chinchilla", "A/N^alpha + B/D^beta + E", {"A": {"alpha": "N"}, "B": {"beta": "D"}, "E": {}}
        ),
    )
}


def named(law: str) -> PowerLaw:
    """Returns the law of that name. Raises ValueError for an unknown one."""
    one_of("law", law, LAWS)
    return LAWS[law]
