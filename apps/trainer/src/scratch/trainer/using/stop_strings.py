"""Stop strings: a text that comes in pieces ends before the first of them."""

from collections.abc import Sequence


class StopStrings:
    """Passes a text on, and holds back what may be the beginning of a stop string.

    The first is the one that is complete first, so what is passed on does not depend on where the
    pieces are cut. Of several that are complete at once it is the longest.

    >>> stop = StopStrings(["the end"])
    >>> [stop.feed(piece) for piece in ("in th", "e st", "reet, the e", "nd. And")]
    ['in ', 'the st', 'reet, ', '']
    >>> stop.found
    True
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if "" in strings:
            raise ValueError("stop must hold texts of at least one character, got an empty one")
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Return what is certain to come before any stop string; nothing once one was found."""
        if self.found:
            return ""
        text = self._held + piece
        places = [
            (start + len(string), start)
            for string in self._strings
            if (start := text.find(string)) >= 0
        ]
        self.found = bool(places)
        certain = min(places)[1] if places else len(text) - self._begun(text)
        self._held = "" if places else text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Return what was held back, as no more will come."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """Return the length of the longest end of `text` that is the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._strings), default=1) - 1)
        return next(
            (
                length
                for length in range(longest, 0, -1)
                if any(string.startswith(text[-length:]) for string in self._strings)
            ),
            0,
        )
