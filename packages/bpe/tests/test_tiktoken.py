"""The files of tiktoken, read and written; what is written, read by tiktoken."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from scratch.bpe import PATTERNS, Tokenizer, Vocabulary, _tiktoken, train_bpe_from_iterator
from scratch.bpe._encode import PlainEncoder
from scratch.bpe._tiktoken import read_tiktoken, write_tiktoken

BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = ((b"a", b"b"), (b" ", b"ab"))
TOKENS = BYTES | {256: b"ab", 257: b" ab"}
RANKS = {token: rank for rank, token in TOKENS.items()}

# None begins another: of two that do, tiktoken may find either.
SPECIALS = ["<|endoftext|>", "<|a b|>", "|><|", "\u4e16"]

# What text may be made of: line ends, spaces of all kinds, contractions, digits, marks.
PIECES = [
    *SPECIALS,
    *("<|", "|>", "\r\n", "\n\n", "\t", " ", "   ", "\u00a0", "\u3000", "\u2028", "\x00"),
    *("'s", "'LL", "don't", "it's", "'", "1", "1234", "\u00bd", "\u0663", ".", "!?", "//", "_"),
    *("the", " the", "The", "camelCase", "e\u0301", "\u0301", "\u00fc", "\u00df", "\u041f\u0440"),
    *("\u4eca\u65e5", "\U0001f600", "\U0001f468\u200d\U0001f469", "\ufeff", "\U0010ffff"),
]


@pytest.fixture(autouse=True, scope="module")
def no_cache() -> Any:
    """Keep tiktoken from remembering files by their paths, which other runs use again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        yield


def ranks_file(folder: Path, ranks: Mapping[bytes, object]) -> Path:
    """Write a `.tiktoken` file as tiktoken would."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "ranks.tiktoken").write_text("".join(lines), encoding="ascii")
    return folder / "ranks.tiktoken"


def in_tiktoken(path: Path, vocabulary: Vocabulary) -> tiktoken.Encoding:
    ids = {token: token_id for token_id, token in vocabulary.tokens.items()}
    return tiktoken.Encoding(
        "test",
        pat_str=vocabulary.pattern,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens={token: ids[token.encode()] for token in vocabulary.special_tokens},
    )


def read(path: Path, **special_tokens: int) -> Vocabulary:
    return read_tiktoken(path, pattern="gpt2", special_tokens=special_tokens)


# Reading


def test_a_file_of_ranks_is_read(tmp_path: Path) -> None:
    path = ranks_file(tmp_path, RANKS)
    specials = {"<s>": 1000, "<t>": 258}
    vocabulary = read_tiktoken(str(path), pattern="cl100k", special_tokens=specials)
    tokens = TOKENS | {258: b"<t>", 1000: b"<s>"}
    assert vocabulary == Vocabulary(tokens, MERGES, ("<s>", "<t>"), "cl100k")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\n\n"], ids=repr)
def test_lines_may_end_in_any_way_and_come_in_any_order(tmp_path: Path, line_end: bytes) -> None:
    path = ranks_file(tmp_path, dict(reversed(RANKS.items())))
    path.write_bytes(path.read_bytes().strip().replace(b"\n", line_end))
    assert read(path) == Vocabulary(TOKENS, MERGES)


def test_ranks_may_have_gaps_and_need_not_begin_with_bytes(tmp_path: Path) -> None:
    ranks = {token: 7 * (257 - rank) for token, rank in RANKS.items()}
    tokens = {rank: token for token, rank in ranks.items()}
    assert read(ranks_file(tmp_path, ranks)) == Vocabulary(tokens, MERGES[::-1])


def test_a_token_that_no_merges_reach_is_a_whole_word(tmp_path: Path) -> None:
    vocabulary = read(ranks_file(tmp_path, RANKS | {b"xyz": 300}))
    assert vocabulary.whole_words == (b"xyz",)
    for ours in (PlainEncoder(vocabulary), Tokenizer.from_vocabulary(vocabulary)):
        assert ours.encode("xyz xyz") == [300, *b" xyz"]


def test_a_special_token_may_be_in_the_file_too(tmp_path: Path) -> None:
    path = ranks_file(tmp_path, RANKS | {b"xyz": 300})
    vocabulary = read(path, xyz=300, ab=256)
    assert vocabulary == Vocabulary(TOKENS | {300: b"xyz"}, MERGES, ("xyz", "ab"))
    write_tiktoken(vocabulary, path)  # without xyz, which none but the special token needs
    assert read(path, xyz=300, ab=256) == vocabulary
    encoding = in_tiktoken(path, vocabulary)
    assert encoding.encode("abxyz ab", allowed_special="all") == [256, 300, 32, 256]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("YWI=", "line 1: it must be a token in base64, a space and a rank .*, got b'YWI='"),
        ("YWI= 1 2", "line 1: it must be a token in base64"),
        (" 300", "line 1: it must be a token in base64"),
        ("YWI= x", "line 1: it must be a token in base64"),
        ("YWI= -1", "line 1: it must be a token in base64, .* of digits, got b'YWI= -1'"),
        ("YWI= 1.0", "line 1: it must be a token in base64"),
        ("YWI= 1_0", "line 1: it must be a token in base64"),
        ("YWI 300", "line 1: the token must be base64, got b'YWI': Incorrect padding"),
        ("YW*I= 300", r"line 1: the token must be base64, got b'YW\*I='"),
        ("YWI= 300\nYWI= 301", "line 2: tokens must be distinct, got b'ab' again"),
        ("YWI= 97", "not a good vocabulary: ranks must be distinct, got 97 for b'ab' and b'a'"),
    ],
)
def test_a_bad_line_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = ranks_file(tmp_path, {token: rank for token, rank in RANKS.items() if rank < 256})
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(ValueError, match=rf"ranks\.tiktoken.*{message}"):
        read(path)


@pytest.mark.parametrize("byte", [0x00, 0x61, 0xFF], ids=hex)
def test_a_missing_byte_is_refused(tmp_path: Path, byte: int) -> None:
    path = ranks_file(tmp_path, {token: rank for token, rank in RANKS.items() if rank != byte})
    rule = rf"ranks\.tiktoken is not a good vocabulary: .* single bytes, got none for {byte:#04x}"
    with pytest.raises(ValueError, match=rule):
        read(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"a": 0}'], ids=repr)
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match="file"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    ("special_tokens", "error", "message"),
    [
        ({"<s>": 97}, ValueError, "ids of their own, got 97 for '<s>', which is the id of b'a'"),
        ({"<s>": 300, "<t>": 300}, ValueError, "got 300 for '<t>', which is the id of b'<s>'"),
        ({"ab": 300}, ValueError, "must not be other tokens too, got 'ab' with id 300, .* 256"),
        ({"<s>": -1}, ValueError, "ids must not be negative, got -1"),
        ({"<s>": "5"}, TypeError, "ids must be whole numbers, got '5'"),
        ({"": 300}, ValueError, "special_tokens must not be empty strings"),
        ({5: 300}, TypeError, "special_tokens must be strings, got 5"),
    ],
    ids=repr,
)
def test_a_bad_special_token_is_refused(
    tmp_path: Path, special_tokens: Any, error: type[Exception], message: str
) -> None:
    path = ranks_file(tmp_path, RANKS)
    with pytest.raises(error, match=message):
        read_tiktoken(path, pattern="gpt2", special_tokens=special_tokens)


def test_a_bad_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pattern must be one of gpt2, cl100k, o200k or"):
        read_tiktoken(ranks_file(tmp_path, RANKS), pattern="(", special_tokens={})


# Writing


def test_a_line_is_a_token_in_base64_and_its_rank(tmp_path: Path) -> None:
    write_tiktoken(Vocabulary(TOKENS | {999: b"<s>"}, MERGES, ("<s>",)), tmp_path / "file")
    lines = (tmp_path / "file").read_bytes().splitlines()
    assert lines[97] == b"YQ== 97"
    assert lines[256:] == [b"YWI= 256", b"IGFi 257"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    tokens=st.sets(st.text("abc", min_size=2, max_size=6), max_size=16),
    order=st.randoms(use_true_random=False),
    texts=st.lists(st.text("abc ", max_size=30), max_size=5),
)
def test_any_ranks_are_read_written_and_mean_the_same(
    tmp_path_factory: pytest.TempPathFactory, tokens: set[str], order: Any, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    longer = sorted(tokens)
    order.shuffle(longer)
    ranks = {token: rank for rank, token in BYTES.items()}
    ranks |= {token.encode(): rank for rank, token in enumerate(longer, start=256)}
    path = ranks_file(folder, ranks)
    vocabulary = read_tiktoken(path, pattern="o200k", special_tokens={"<s>": 999})
    write_tiktoken(vocabulary, folder / "written")
    assert (folder / "written").read_bytes() == path.read_bytes()
    encoding, tokenizer = in_tiktoken(path, vocabulary), Tokenizer.from_vocabulary(vocabulary)
    for text in [*texts, *longer, " ".join(longer), "<s>".join(longer)]:
        ids = encoding.encode(text, allowed_special="all")
        assert PlainEncoder(vocabulary).encode(text) == ids
        assert tokenizer.encode(text) == ids


WHOLE = Vocabulary(TOKENS | {258: b"xyz", 259: b"uvw"}, MERGES, whole_words=(b"xyz", b"uvw"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"merges": MERGES[::-1]},
            r"merges must be those that the ids lead to, taken as ranks: "
            r"merge 0 must be \(b'a', b'b'\), got \(b' ', b'ab'\)",
        ),
        ({"merges": ()}, r"merge 0 must be \(b'a', b'b'\), got none"),
        ({"merges": (*MERGES, MERGES[0])}, r"merge 2 must be none, got \(b'a', b'b'\)"),
        ({"tokens": WHOLE.tokens | {260: b"a ab"}}, r"merge 2 must be \(b'a', b' ab'\), got none"),
        ({"whole_words": (b"uvw",)}, "hold every token that no merges lead to .*, got no b'xyz'"),
        ({"whole_words": ()}, "whole_words must hold every token .*, got no b'xyz'"),
        (
            {"whole_words": (*WHOLE.whole_words, b"ab")},
            "whole_words must be tokens that no merges lead to in this format, got b'ab'",
        ),
        ({"tokens": WHOLE.tokens | {300: b"ab"}}, "must have one id .*, got 256 and 300 for b'ab'"),
        ({"tokens": WHOLE.tokens | {2**32 - 1: b"<s>"}}, r"ids must be below 2\*\*32 - 1"),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_what_ranks_cannot_tell_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fields = {name: getattr(WHOLE, name) for name in ("tokens", "merges", "whole_words")}
    with pytest.raises(ValueError, match=message):
        write_tiktoken(Vocabulary(**fields | changes), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_reads_back_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = _tiktoken._parse
    monkeypatch.setattr(_tiktoken, "_parse", lambda *args: parse(args[0], "", "o200k", {}))
    with pytest.raises(ValueError, match="would read back with other pattern; nothing written"):
        write_tiktoken(WHOLE, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


# tiktoken


@pytest.fixture(scope="module", params=PATTERNS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: str
) -> tuple[Tokenizer, tiktoken.Encoding]:
    vocabulary = train_bpe_from_iterator(
        [corpus], vocab_size=900, special_tokens=SPECIALS, pattern=request.param
    )
    path = tmp_path_factory.mktemp("files") / "trained.tiktoken"
    write_tiktoken(vocabulary, path)
    ids = dict(Tokenizer.from_vocabulary(vocabulary).special_tokens)
    assert read_tiktoken(path, pattern=request.param, special_tokens=ids) == vocabulary
    return Tokenizer.from_vocabulary(vocabulary), in_tiktoken(path, vocabulary)


@settings(deadline=None, derandomize=True, max_examples=160)
@given(text=st.lists(st.sampled_from(PIECES)).map("".join))
def test_tiktoken_reads_the_same(both: tuple[Tokenizer, tiktoken.Encoding], text: str) -> None:
    ours, theirs = both
    ids = ours.encode(text)
    assert theirs.encode(text, allowed_special="all") == ids
    assert theirs.decode(ids) == text


def test_tiktoken_encodes_a_corpus_the_same(
    both: tuple[Tokenizer, tiktoken.Encoding], corpus: str
) -> None:
    ours, theirs = both
    assert theirs.encode(corpus, allowed_special="all") == ours.encode(corpus)
