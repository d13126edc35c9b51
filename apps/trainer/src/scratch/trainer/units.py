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


def _three_digits(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}"
