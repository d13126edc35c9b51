"""GPT-2's spelling of bytes as visible characters, for files that people can read.

Bytes that are visible in Latin-1 stand for themselves; each other byte takes the next character
from U+0100 on. A space becomes `Ġ`, a line end `Ċ`.
"""

from functools import lru_cache


@lru_cache(maxsize=1)
def _characters() -> dict[int, str]:
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {byte: chr(byte) if byte in visible else chr(next(spare)) for byte in range(256)}


class _Bytes(dict[int, int]):
    def __missing__(self, character: int) -> int:
        raise ValueError(f"got {chr(character)!r}")


@lru_cache(maxsize=1)
def _bytes() -> _Bytes:
    return _Bytes({ord(character): byte for byte, character in _characters().items()})


def to_printable(token: bytes) -> str:
    return token.decode("latin-1").translate(_characters())


def from_printable(text: str) -> bytes:
    """Return the bytes that `text` spells.

    Raises:
        ValueError: naming the first character that spells no byte.
    """
    try:
        return text.translate(_bytes()).encode("latin-1")
    except ValueError as error:
        raise ValueError(
            f"a token must be spelt in GPT-2's byte characters, {error} in {text!r}"
        ) from None
