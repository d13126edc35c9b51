"""GPT-2's visible spelling of bytes."""

import pytest

from scratch.bpe._printable import from_printable, to_printable

EVERY_BYTE = bytes(range(256))


def test_every_byte_has_a_spelling_of_its_own() -> None:
    spelt = to_printable(EVERY_BYTE)
    assert len(set(spelt)) == len(spelt) == 256
    assert from_printable(spelt) == EVERY_BYTE


def test_spellings_are_visible() -> None:
    spelt = to_printable(EVERY_BYTE)
    assert spelt.isprintable()
    assert not any(character.isspace() for character in spelt)


def test_visible_latin_1_stands_for_itself() -> None:
    visible = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    assert to_printable(bytes(visible)) == "".join(map(chr, visible))


def test_other_bytes_take_the_next_characters_from_u0100() -> None:
    hidden = [b for b in range(256) if not chr(b).isprintable() or chr(b).isspace()]
    assert to_printable(bytes(hidden)) == "".join(chr(0x100 + k) for k in range(len(hidden)))


@pytest.mark.parametrize(
    ("token", "spelling"),
    [
        (b" the", "\u0120the"),
        (b"\n\t\r", "\u010a\u0109\u010d"),
        ("\u00e9".encode(), "\u00c3\u00a9"),
        (b"\x7f\xa0\xad", "\u0121\u0142\u0143"),
        (b"", ""),
    ],
)
def test_known_spellings(token: bytes, spelling: str) -> None:
    assert to_printable(token) == spelling
    assert from_printable(spelling) == token


@pytest.mark.parametrize("text", ["a b", "a\n", "\u4e2d", "\u0144", "\ud800"], ids=ascii)
def test_a_character_that_spells_no_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a token must be spelt in GPT-2's byte characters, got"):
        from_printable(text)
