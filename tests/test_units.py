"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.units import billions, duration, flops, money, number, power, scientific, size


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(1000), "1.00 kB"),
        (size(9.21e9), "9.21 GB"),
        (size(131e9), "131.00 GB"),
        (size(2.5e18), "2500.00 PB"),
        (number(None), "not counted"),
        (number(671_026_404_352), "671B"),
        (number(0.9375), "0.9375"),
        (number(1_500), "1.5k"),
        (billions(37.55e9), "37.5B"),
        (billions(124_439_808), "124.4M"),
        (money(3), "$ 3"),
        (money(4_500), "$ 4.5 k"),
        (money(5_576_000), "$ 5.58 M"),
        (money(2e12), "$ 2 T"),
        (flops(1e11), "10¹¹ FLOPs"),
        (flops(2.96e12), "3×10¹² FLOPs"),
        (power(2.5e9), "2.5×10⁹"),
        (power(1e-3), "10⁻³"),
        (scientific(1e11), "1e11"),
        (scientific(1.23456789e11), "123456789000.0"),
        (duration(8.4), "8 s"),
        (duration(125), "2 min 05 s"),
        (duration(12_000), "3 h 20 min"),
    ],
)
def test_in_words(text: str, wanted: str) -> None:
    assert text == wanted


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_scientific_is_read_back_as_the_same_number(value: float) -> None:
    assert float(scientific(value)) == value
