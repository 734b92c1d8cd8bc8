"""Numbers as people read them: bytes, FLOPs, parameters, money and durations."""

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def size(n_bytes: float) -> str:
    """Bytes, in powers of 1,000: 9.21 GB."""
    return _scaled(n_bytes, ("B", "kB", "MB", "GB", "TB", "PB"), ".0f", ".2f")


def number(value: float | None) -> str:
    """At most four digits and a letter: 671.0B. None is what was not counted."""
    return "not counted" if value is None else _scaled(value, ("", "k", "M", "B", "T", "P"), ".4g", ".4g", "")


def billions(parameters: float) -> str:
    """Parameters as model cards give them: 37.6B, or 124.4M below a billion."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


MULTIPLES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "ki": 2**10, "mi": 2**20}


def quantity(name: str, text: str) -> float:
    """Returns the number that a person wrote: 14.8e12, 14.8T, 128k (128,000), 128Ki (131,072). Raises ValueError, with
    the ``name`` of the option, for what is none."""
    digits = text.strip().replace(",", "").replace("_", "")
    letters = digits.lstrip("+-.0123456789")
    times = MULTIPLES.get(letters.lower())
    try:
        return float(digits if times is None else digits.removesuffix(letters)) * (times or 1)
    except ValueError:
        raise ValueError(f"{name}={text[:40]!r} is no number: write it like 14.8e12, 14.8T or 128k") from None


def money(dollars: float) -> str:
    """$ 5.58 M."""
    return "$ " + _scaled(dollars, ("", "k", "M", "B", "T"), ",.3g", ",.3g").rstrip()


def flops(budget: float) -> str:
    """A round budget of FLOPs: 10¹¹ FLOPs."""
    return f"{power(float(f'{budget:.0e}'))} FLOPs"


def power(value: float) -> str:
    """At most three digits and a power of ten: 10¹¹, 2.5×10¹¹."""
    digits, exponent = f"{value:.2e}".split("e")
    raised = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    return raised if float(digits) == 1 else f"{float(digits):g}×{raised}"


def scientific(value: float) -> str:
    """A number as short as Python reads it back: 1e11 rather than 100000000000.0."""
    short = f"{value:g}".replace("e+", "e")
    return short if float(short) == value else repr(value)


def duration(seconds: float) -> str:
    """8 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(value: float, prefixes: tuple[str, ...], below: str, above: str, space: str = " ") -> str:
    """``value`` in the largest unit that is not above it; ``below`` is the format of values below 1,000."""
    step = next((n for n in reversed(range(1, len(prefixes))) if value >= 1000**n), 0)
    return f"{value / 1000**step:{above if step else below}}{space}{prefixes[step]}"
