"""Contrast of two colours, after WCAG 2.2 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""

import re

Colour = tuple[float, ...]  # red, green and blue from 0 to 255, and perhaps opacity from 0 to 1


def colour(text: str) -> Colour:
    """Of "#rrggbb", "#rrggbbaa", "rgb(r, g, b)" or "rgba(r, g, b, a)"."""
    if text.startswith("#"):
        values = [int(text[i : i + 2], 16) for i in range(1, len(text), 2)]
        return (*values[:3], *(value / 255 for value in values[3:]))
    return tuple(float(number) for number in re.findall(r"[\d.]+", text))


def over(front: Colour, back: Colour) -> Colour:
    """What is seen of ``front`` before ``back``."""
    *rgb, alpha = front if len(front) == 4 else (*front, 1.0)
    return tuple(alpha * f + (1 - alpha) * b for f, b in zip(rgb, back, strict=False))


def contrast(a: Colour, b: Colour) -> float:
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
