"""Sums of powers fitted to losses: Huber's loss on log-loss, for many starts and many resamples at once.

The papers minimise by L-BFGS. This module takes steps of Levenberg and Marquardt on reweighted least squares (Holland
and Welsch 1977, doi 10.1080/03610927708827533), which reach the same minima, for all problems in one call. SciPy's
L-BFGS-B solves one problem at a time, and BLAS's threads made it twenty times slower on a busy machine.

R runs, T terms, P coefficients, B problems.
"""

import numpy as np
import numpy.typing as npt

from sparsity_lab.laws.power_law import Array

DELTA = 1e-3  # of the Huber loss on log-loss: Hoffmann et al. 2022 (arXiv 2203.15556), Abnar et al. 2025
STEPS = 400
# A problem is done after PATIENCE steps in a row that lower its loss by less than TOLERANCE (relative), or when even
# steps with a damping of STUCK, which are tiny, do not lower it.
TOLERANCE, PATIENCE, STUCK = 1e-7, 5, 1e9


def log_loss(x_RTP: Array, theta_BP: Array) -> Array:
    """Computes log Σ_t exp(X_t·θ): (B, R)."""
    return _log_loss_and_shares(x_RTP, theta_BP)[0]


def huber(errors_BR: Array, weights_BR: Array) -> Array:
    """Computes Σ weight · Huber(error) with δ = 1: (B,)."""
    inner = np.clip(errors_BR, -1, 1)
    return np.asarray((weights_BR * inner * (errors_BR - inner / 2)).sum(-1))


def minimise(x_RTP: Array, y_R: Array, weights_BR: Array, starts_BP: Array, bounds_2P: Array) -> tuple[Array, Array]:
    """Finds from each start the θ (B, P) within the bounds where Σ weight · Huber((log L − y)/δ) is lowest, and its
    value there (B,), in units of δ²."""
    low, high = bounds_2P
    theta = np.clip(starts_BP, low, high)
    errors, shares = _errors(x_RTP, y_R, theta)
    value = huber(errors, weights_BR)
    damping, quiet = np.full(len(theta), 1e-2), np.zeros(len(theta), int)
    todo = np.arange(len(theta))
    for _ in range(STEPS):
        # A coefficient at a bound stays there while the loss falls towards the outside.
        gradient, curvature = derivatives(x_RTP, errors[todo], shares[todo], weights_BR[todo])
        pinned = ((theta[todo] <= low) & (gradient > 0)) | ((theta[todo] >= high) & (gradient < 0))
        tried = np.clip(theta[todo] + _step(gradient, curvature, damping[todo], pinned), low, high)

        errors_new, shares_new = _errors(x_RTP, y_R, tried)
        value_new = huber(errors_new, weights_BR[todo])
        lower = value_new < value[todo]
        much = value[todo] - value_new > TOLERANCE * value[todo]
        damping[todo] *= np.where(lower, 1 / 4, 5)
        quiet[todo] = np.where(much, 0, quiet[todo] + 1)

        moved = todo[lower]
        theta[moved], value[moved] = tried[lower], value_new[lower]
        errors[moved], shares[moved] = errors_new[lower], shares_new[lower]
        todo = todo[(quiet[todo] < PATIENCE) & (damping[todo] < STUCK)]
        if not len(todo):
            break
    return theta, value


def derivatives(x_RTP: Array, errors_BR: Array, shares_BRT: Array, weights_BR: Array) -> tuple[Array, Array]:
    """Computes the gradient (B, P) of the loss that `minimise` lowers, and the curvature (B, P, P) of least squares in
    which an error beyond δ weighs only δ/|error|."""
    slopes_BRP = np.einsum("brt,rtp->brp", shares_BRT, x_RTP) / DELTA
    weighted_BRP = (weights_BR / np.maximum(1, np.abs(errors_BR)))[..., None] * slopes_BRP
    gradient = np.einsum("br,brp->bp", errors_BR, weighted_BRP)
    return gradient, np.einsum("brp,brq->bpq", weighted_BRP, slopes_BRP)


def _step(gradient: Array, curvature: Array, damping: Array, pinned: npt.NDArray[np.bool_]) -> Array:
    """Solves (H + damping · diag H) · step = −g for the coefficients that are not pinned to a bound."""
    free = ~pinned
    h = curvature * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bpp->bp", h)
    # The second part keeps H regular where a coefficient changes nothing.
    ridge = damping[:, None] * diagonal + 1e-9 * diagonal.max(1, keepdims=True) + pinned
    return np.linalg.solve(h + ridge[:, None, :] * np.eye(h.shape[-1]), -(gradient * free)[..., None])[..., 0]


def _errors(x_RTP: Array, y_R: Array, theta_BP: Array) -> tuple[Array, Array]:
    """Returns errors in units of δ (B, R), and each term's share of the loss (B, R, T): the gradient of log L with
    respect to the term's logarithm."""
    log_BR, shares_BRT = _log_loss_and_shares(x_RTP, theta_BP)
    return (log_BR - y_R) / DELTA, shares_BRT


def _log_loss_and_shares(x_RTP: Array, theta_BP: Array) -> tuple[Array, Array]:
    z_BRT = np.einsum("bp,rtp->brt", theta_BP, x_RTP)
    top = z_BRT.max(-1, keepdims=True)
    powers = np.exp(z_BRT - top)
    total = powers.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], powers / total
