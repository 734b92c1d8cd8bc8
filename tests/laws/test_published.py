"""Published laws against numbers of their papers, and what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.laws.published import DOMAINS, LAWS, LOSS, PublishedLaw, published_law

ABNAR, HOFFMANN, BESIROGLU, LUDZIEJEWSKI = (LAWS[n] for n in ("abnar", "hoffmann", "besiroglu", "ludziejewski"))
EXAMPLE = {"N": 1e9, "D": 2e10, "S": 0.5, "E": 8, "G": 8, "A": 0.1, "C": 1e20}

# ---- Numbers


def test_abnar() -> None:
    got = ABNAR(N=1e10, D=2e10, S=[0, 0.5, 0.75, 0.9, 0.95, 0.98]).value
    assert got == pytest.approx([2.3176, 2.3190, 2.3319, 2.3669, 2.4073, 2.4800], abs=6e-5)


@pytest.mark.parametrize(("compute", "n", "best"), [
    (3e19, 1e8, 0.507), (3e19, 3e8, 0.808), (3e19, 1e9, 0.933), (3e19, 1e10, 0.992),
    (1e20, 1e8, 0.125), (1e20, 3e8, 0.645), (1e20, 1e9, 0.872), (1e20, 1e10, 0.983),
    (1e21, 1e8, 0.0), (1e21, 3e8, 0.049), (1e21, 1e9, 0.623), (1e21, 1e10, 0.942),
])  # fmt: skip
def test_best_sparsity_of_abnar_at_fixed_size_and_compute(compute: float, n: float, best: float) -> None:
    S = 1 - np.geomspace(1, 1e-4, 20_001)
    loss = ABNAR(N=n, D=compute / (6 * n * (1 - S)), S=S).value
    assert S[loss.argmin()] == pytest.approx(best, abs=1e-3)


def test_abnar_contradicts_a_sentence_of_its_paper() -> None:
    """At fixed N the best S falls as compute grows, as section 3 and App. D.2 say; a bullet of section 6 says it
    rises. Eq. 6 sides with the former at every size."""
    S = 1 - np.geomspace(1, 1e-5, 2_001)
    for n in np.geomspace(1e8, 1e11, 13):
        best = [S[ABNAR(N=n, D=c / (6 * n * (1 - S)), S=S).value.argmin()] for c in np.geomspace(3e19, 1e21, 9)]
        assert best[0] > best[-1] or best[0] == 0
        assert best == sorted(best, reverse=True)
    assert best[0] > 0.99, "and it nears 1 as N grows"


def test_chinchilla_at_its_own_size() -> None:
    """Hoffmann's fit is rounded and off; the correction says 70B and 1.4T tokens are about right."""
    assert HOFFMANN(N=70e9, D=1.4e12).value == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)
    assert HOFFMANN(N=70e9, D=1.4e12).value == pytest.approx(1.937, abs=5e-4)
    assert BESIROGLU(N=70e9, D=1.4e12).value == pytest.approx(1.974, abs=5e-4)


@pytest.mark.parametrize(("dense", "tokens", "granularity", "loss"), [
    (1e8, 4.37e9, 8, 3.133), (1e9, 28.94e9, 16, 2.491), (3e9, 72.9e9, 16, 2.245), (7e9, 137.6e9, 32, 2.076),
    (70e9, 941.07e9, 32, 1.694), (300e9, 2.96e12, 64, 1.503), (1e12, 7.94e12, 64, 1.367),
])  # fmt: skip
def test_krajewski_table_of_best_configurations(dense: float, tokens: float, granularity: float, loss: float) -> None:
    """Their "64 × 1B" is a dense 1B (12·d² a block) with 64 times the feed-forward part: N = 43 × 1B, not 64 × 1B."""
    law = LAWS["krajewski"]
    n = dense / law.share("active")
    assert n == pytest.approx(43 * dense)
    assert law(N=n, D=tokens, G=granularity).value == pytest.approx(loss, rel=0.009)


def test_clark() -> None:
    """With one expert or none the law is Ê = E_start; it stops paying at N = 10^(−b/c), which the paper puts at some
    900B; up to there more experts help, and by less and less."""
    law = LAWS["clark"]
    sizes, experts = np.geomspace(5e6, 1e11, 20)[:, None], 2.0 ** np.arange(10)
    gain = -np.diff(np.log(law(N=sizes, E=experts).value))
    assert (gain > 0).all()
    assert (np.diff(gain, axis=0) < 0).all()
    end = 10 ** (-law.coefficients["b"] / law.coefficients["c"])
    assert end == pytest.approx(9e11, rel=0.15)
    assert np.ptp(law(N=end, E=experts).value) < 1e-12
    assert law(N=1.3e9, E=512).value < 2 < 2.2 < law(N=1.3e9, E=1).value


def test_ling() -> None:
    """More than 7 times at 3.1 % and G = 12 with 1e22 FLOPs; about 12 is the best granularity; dense is 1."""
    law = LAWS["ling"]
    assert law(A=0.031, G=12, C=1e22).value == pytest.approx(7.24, abs=0.01)
    G = np.geomspace(2, 16, 200)
    assert 10 < G[law(A=0.031, G=G, C=1e20).value.argmax()] < 13
    assert law(A=1, G=2, C=1e20).value == pytest.approx(1, abs=0.02)
    share = np.geomspace(1 / 128, 1, 9)
    assert (np.diff(law(A=share, G=8, C=1e20).value) < 0).all()


def test_frantar() -> None:
    """75 % sparse is worth a dense model 2.16 times as large as what is left (their table for T5)."""
    law = LAWS["frantar"]
    sparse = law(N=1e7, D=1e10, S=0.75).value
    assert law(N=2.16e7, D=1e10, S=0).value == pytest.approx(sparse, abs=1e-3)


# ---- What every law keeps


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_entries(law: PublishedLaw) -> None:
    assert re.search(r"arXiv \d{4}\.\d{5}", law.source)
    assert law.status in ("checked", "inferred", "second-hand")
    assert set(law.variables) <= set(DOMAINS)
    covered = set(law.ranges) | ({"N", "D"} if "C" in law.ranges else set())
    assert set(law.variables) <= covered, "each has a range, be it that none is on record"
    assert ("N" in law.variables) == (law.n_means != "")
    assert (law.status == "checked") == (law.name not in ("ling", "frantar"))
    if law.status == "second-hand":
        assert "Coefficients from others' summaries" in law.notes


@given(st.sampled_from([law for law in LAWS.values() if law.predicts == LOSS]), st.data())
def test_more_weights_and_tokens_never_hurt_and_arrays_are_numbers_one_by_one(
    law: PublishedLaw, data: st.DataObject
) -> None:
    point = {v: EXAMPLE[v] for v in law.variables}
    for variable in {"N", "D"} & set(law.variables):
        values = np.sort(np.exp(data.draw(st.lists(st.floats(np.log(1e7), np.log(1e12)), min_size=2, max_size=5))))
        losses = law(**point | {variable: values}).value
        assert (np.diff(losses) <= 0).all()
        assert losses == pytest.approx([float(law(**point | {variable: v}).value) for v in values], rel=1e-12)


def test_your_own_coefficients() -> None:
    mine = replace(HOFFMANN, name="mine", coefficients=dict(HOFFMANN.coefficients, E=0))
    assert mine(N=1e9, D=1e10).value == pytest.approx(HOFFMANN(N=1e9, D=1e10).value - 1.69)


# ---- Warnings and refusals


def test_outside_the_fit_it_answers_and_says_so() -> None:
    assert ABNAR(N=1e10, D=1e10, S=0.9).warnings == []
    value, warnings = ABNAR(N=1e10, D=2e10, S=[0.5, 0.99, 0.995])
    assert value.shape == (3,)
    assert warnings[0] == "S = 0.995 is outside 0 to 0.98, where abnar was fitted"
    assert warnings[1].startswith("C = 6·N_a·D = 6e+18 is outside 3e+19 to 1e+21")
    both = BESIROGLU(N=[1e6, 1e9, 1e12], D=1e10).warnings
    assert [line.split(" is ")[0] for line in both] == ["N = 1e+06", "N = 1e+12"]
    assert LUDZIEJEWSKI(N=1e9, D=1e10, E=8).warnings == [
        "D: the range in which ludziejewski was fitted is not on record"
    ]
    assert BESIROGLU(N=1.6e10, D=5e11).warnings == [], "the ends belong to the range"


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("abnar", {"S": 1.0}, "S=1 must be at least 0 and below 1"),
    ("abnar", {"N": [1e9, -1.0]}, "N=-1 must be above 0 and finite"),
    ("abnar", {"D": np.nan}, "D=nan must be above 0 and finite"),
    ("clark", {"E": 0.5}, "E=0.5 must be at least 1"),
    ("ling", {"A": 2}, "A=2 must be above 0 and at most 1"),
    ("hoffmann", {"S": 0.5}, "hoffmann takes N, D; got N, D, S"),
])  # fmt: skip
def test_impossible_variables(name: str, changes: dict[str, float], message: str) -> None:
    law = LAWS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        law(**{v: EXAMPLE[v] for v in law.variables} | changes)
    with pytest.raises(ValueError, match="law='chinchila' is not known: use one of abnar, hoffmann"):
        published_law("chinchila")


@given(st.floats(1, 1e15), st.floats(0, 0.999))
def test_total_and_active_by_abnars_convention(n: float, S: float) -> None:
    assert n * ABNAR.share("active", S) == pytest.approx((1 - S) * n)
    assert n * ABNAR.share("total", S) == n


@pytest.mark.parametrize(("name", "what", "message"), [
    ("ludziejewski", "total", r"ludziejewski can't say N as 'total'.* known as active parameters"),
    ("clark", "active", r"clark can't say N as 'active': its N \(dense-equivalent\) is known in no other way"),
    ("ling", "total", r"ling can't say N as 'total': its N \(none\)"),
])  # fmt: skip
def test_a_law_counts_only_what_it_knows(name: str, what: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAWS[name].share(what)
