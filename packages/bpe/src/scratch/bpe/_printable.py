"""GPT-2's spelling of bytes as visible characters, for files that people can read.

Bytes that are visible in Latin-1 stand for themselves; each other byte takes the next character
from U+0100 on. A space becomes `Ġ`, a line end `Ċ`.
"""

from functools import lru_cache


@lru_cache(maxsize=1)
def _characters() -> tuple[str, ...]:
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in visible else chr(next(spare)) for byte in range(256))


@lru_cache(maxsize=1)
def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_characters())}


def to_printable(token: bytes) -> str:
    characters = _characters()
    return "".join(characters[byte] for byte in token)


def from_printable(text: str) -> bytes:
    """Return the bytes that `text` spells.

    Raises:
        ValueError: naming the first character that spells no byte.
    """
    table = _bytes()
    try:
        return bytes(table[character] for character in text)
    except KeyError as error:
        raise ValueError(
            f"a token must be spelt in GPT-2's byte characters, got {error.args[0]!r} in {text!r}"
        ) from None
