"""Numbers as a reader wants them."""

from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Return True for a number that is not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: float) -> str:
    """Return a number with four significant digits.

    >>> number(0.123456), number(3), number(12345.6), number(1e-6)
    ('0.1235', '3', '12,346', '1e-06')
    """
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def rounded(value: float) -> str:
    """Return a score or a distance, so that a column of them and their intervals line up.

    >>> rounded(0.08287), rounded(1.0), rounded(175.23), rounded(0.0001), rounded(218)
    ('0.083', '1.000', '175.2', '0.0001', '218')
    """
    if isinstance(value, int) or abs(value) >= 1e4:
        return number(value)
    if 0 < abs(value) < 0.0005:
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
