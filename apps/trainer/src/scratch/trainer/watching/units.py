"""Numbers as a person reads them."""


def clock(seconds: float) -> str:
    """Return a duration: 0:59, 12:05, 3:00:00."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def short(count: float) -> str:
    """Return a count with three digits: 999, 1.23k, 45.6M, 7.89B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size * 0.9995:
            return f"{_three_digits(count / size)}{letter}"
    return f"{_three_digits(count)}"


def ago(seconds: float) -> str:
    """Return how long something is ago, roughly; a clock that went backwards says it is now."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "now"


def decimals(value: float, digits: int) -> str:
    """Return a number with so many decimals; one that has gone astray in few characters."""
    return f"{value:,.{digits}f}" if abs(value) < 10_000 else f"{value:.2e}"


def printable(text: str) -> str:
    """Return a text that can be written down: names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _three_digits(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}"
