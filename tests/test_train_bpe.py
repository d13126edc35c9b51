"""Contract: BPE training, with a trainer as oracle that recounts every pair before every merge."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from .adapters import run_train_bpe
from .texts import EOT, GPT2, NASTY, sample_text, split_leftmost_longest

Merges = list[tuple[bytes, bytes]]

NON_SPACE = r"\S+"


# --- the oracle


def join_pair(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    joined, index = [], 0
    while index < len(word):
        width = 2 if word[index : index + 2] == pair else 1
        joined.append(b"".join(word[index : index + width]))
        index += width
    return tuple(joined)


def recounting_trainer(
    text: str, merges: int, special_tokens: list[str], pattern: str = GPT2
) -> Merges:
    words = Counter[tuple[bytes, ...]]()
    for part, _ in split_leftmost_longest(text, special_tokens):
        for match in regex.finditer(pattern, part):
            words[tuple(bytes([byte]) for byte in match.group().encode())] += 1
    learned: Merges = []
    while len(learned) < merges:
        pairs = Counter[tuple[bytes, bytes]]()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        changed = Counter[tuple[bytes, ...]]()
        for word, count in words.items():
            changed[join_pair(word, best)] += count
        words = changed
    return learned


# --- the trainer under test


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus") / "corpus.txt"


def train(
    corpus: Path,
    text: str,
    merges: int,
    special_tokens: list[str] | None = None,
    **options: str | int,
) -> Merges:
    """Return the merges learned from `text`, after checking the vocabulary that goes with them."""
    special_tokens = special_tokens or []
    corpus.write_bytes(text.encode())
    vocab, learned = run_train_bpe(
        corpus, 256 + len(special_tokens) + merges, special_tokens, **options
    )
    assert sorted(vocab) == list(range(len(vocab)))
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in learned]
    tokens += [token.encode() for token in special_tokens]
    assert Counter(vocab.values()) == Counter(tokens)
    return learned


def test_train_bpe(corpus: Path) -> None:
    text = sample_text(seed=1, fragments=5_000)
    assert train(corpus, text, 200) == recounting_trainer(text, 200, [])


def test_train_bpe_special_tokens(corpus: Path) -> None:
    text = EOT.join(sample_text(seed, fragments=40) for seed in range(100))
    learned = train(corpus, text, 150, [EOT])
    assert learned == recounting_trainer(text, 150, [EOT])
    assert not [pair for pair in learned if EOT.encode() in b"".join(pair)]


def test_worked_example(corpus: Path) -> None:
    text = "low " * 5 + "lower " * 2 + "widest " * 3 + "newest " * 6
    expected = "s t, e st, o w, l ow, w est, n e, ne west, w i, wi d, wid est, low e, lowe r"
    learned = train(corpus, text, 100, pattern=NON_SPACE)
    assert learned == [tuple(pair.encode().split()) for pair in expected.split(", ")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab ac", "a c, a b"),
        ("ab zc abc abc zc", "a b, z c, ab c"),  # `ab` has the greater id, `z` the greater byte
        ("ab ac ac abc abc", "a b, ab c, a c"),  # a longer token is greater than its beginning
        ("ab abc abc adc adc", "a b, d c, ab c, a dc"),
        ("é é ab ab", "é, a b"),  # bytes compare unsigned
    ],
)
def test_a_tie_goes_to_the_greatest_pair_of_byte_strings(
    corpus: Path, text: str, expected: str
) -> None:
    pairs = [tuple(pair.encode().split()) for pair in expected.split(", ")]
    pairs = [(b"\xc3", b"\xa9") if pair == ("é".encode(),) else pair for pair in pairs]
    assert train(corpus, text, 100, pattern=NON_SPACE) == pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aaa", [(b"a", b"a"), (b"aa", b"a")]),
        ("aaaa aaa", [(b"a", b"a"), (b"aa", b"aa"), (b"aa", b"a")]),
        (
            "aaa aaa bc bc bc",
            [(b"a", b"a"), (b"b", b"c"), (b"aa", b"a")],
        ),  # `aaa` counts `a a` twice
    ],
)
def test_overlaps_merge_from_left_to_right(corpus: Path, text: str, expected: Merges) -> None:
    assert train(corpus, text, 100, pattern=NON_SPACE) == expected


def test_line_ends_stay_as_they_are(corpus: Path) -> None:
    assert train(corpus, "a\r\n\r\n\r\nb", 1) == [(b"\r", b"\n")]


@pytest.mark.parametrize("text", ["", "a b c", EOT * 5], ids=["empty", "no_pair", "only_special"])
def test_training_stops_when_no_pair_is_left(corpus: Path, text: str) -> None:
    assert train(corpus, text, 50, [EOT], pattern=NON_SPACE) == []


def test_text_that_a_custom_pattern_leaves_out_does_not_count(corpus: Path) -> None:
    assert train(corpus, "--ab--ab--", 100, pattern=r"\p{L}+") == [(b"a", b"b")]


def test_a_vocabulary_without_room_for_merges_has_none(corpus: Path) -> None:
    assert train(corpus, "low lower lowest", 0, [EOT, "<|pad|>"]) == []


# --- any corpus, any special tokens

RUNS = st.text("ab ", max_size=60)
ANY_CORPUS = settings(deadline=None, derandomize=True, max_examples=100)


@ANY_CORPUS
@given(text=NASTY | RUNS)
def test_merges_equal_those_of_the_recounting_trainer(corpus: Path, text: str) -> None:
    assert train(corpus, text, 30) == recounting_trainer(text, 30, [])


@ANY_CORPUS
@given(text=RUNS)
def test_long_runs_equal_those_of_the_recounting_trainer(corpus: Path, text: str) -> None:
    learned = train(corpus, text, 60, pattern="[ab]+")
    assert learned == recounting_trainer(text, 60, [], pattern="[ab]+")


@ANY_CORPUS
@given(
    text=st.text("abc. ", max_size=80),
    special_tokens=st.lists(st.text("abc. ", min_size=2, max_size=4), unique=True, max_size=4),
)
def test_overlapping_special_tokens_split_leftmost_longest(
    corpus: Path, text: str, special_tokens: list[str]
) -> None:
    expected = recounting_trainer(text, 30, special_tokens)
    assert train(corpus, text, 30, special_tokens) == expected


# --- large files and several workers


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_of_many_blocks_counts_as_its_documents_do(corpus: Path, workers: int) -> None:
    # A document starts with a letter and ends with a dot, so the copies are counted one by one
    # and 150 of them learn what one does.
    document = "a" + sample_text(seed=3, fragments=12_001) + "."
    text = document * 150
    assert len(text.encode()) > 4 * 2**20
    assert train(corpus, text, 60, workers=workers) == recounting_trainer(document, 60, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_no_block_ends_inside_a_special_token(corpus: Path, workers: int) -> None:
    # 13 of 15 places of this file are inside a special token.
    text = (EOT + "ab") * (5 * 2**20 // 15)
    assert train(corpus, text, 50, [EOT], workers=workers) == [(b"a", b"b")]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_block_of_a_custom_pattern_ends_at_a_space(corpus: Path, workers: int) -> None:
    # All four pairs tie, and `z` and a space are the greatest: one lost, and `b .` comes first.
    learned = train(corpus, "az b." * 600_000, 1, pattern=r"[^.]+\.", workers=workers)
    assert learned == [(b"z", b" ")]


# --- refusals


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ([""], "empty"),
        (["<|a|>", "<|b|>", "<|a|>"], r"<\|a\|>"),
        (["a"], "byte"),
        (["<|a|>", "\n"], "byte"),
    ],
    ids=["empty", "repeated", "single_byte", "line_end"],
)
def test_bad_special_tokens_are_refused(
    corpus: Path, special_tokens: list[str], message: str
) -> None:
    corpus.write_text("some text")
    with pytest.raises(ValueError, match=f"special_tokens.*{message}"):
        run_train_bpe(corpus, 300, special_tokens)


def test_a_character_of_several_bytes_may_be_special(corpus: Path) -> None:
    assert train(corpus, "aéab", 10, ["é"]) == [(b"a", b"b")]


@pytest.mark.parametrize(("vocab_size", "special_tokens"), [(255, []), (256, [EOT]), (-1, [])])
def test_a_vocabulary_too_small_is_refused(
    corpus: Path, vocab_size: int, special_tokens: list[str]
) -> None:
    corpus.write_text("some text")
    least = 256 + len(special_tokens)
    with pytest.raises(ValueError, match=rf"vocab_size.*{least}.*{vocab_size}"):
        run_train_bpe(corpus, vocab_size, special_tokens)


@pytest.mark.parametrize(
    ("content", "offset_bytes"),
    [
        (b"ab\xff", 2),
        ("é".encode() + b"\xc0\xaf", 2),  # an overlong slash
        (b"\xed\xa0\x80", 0),  # a surrogate
        (b"abc\xe2\x82", 3),  # cut at the end of the file
        (b"a" * (2**20 - 1) + b"\xe2(", 2**20 - 1),  # cut where blocks are likely to meet
        (b"word " * 600_000 + b"\xff word", 3_000_000),
    ],
    ids=["stray", "overlong", "surrogate", "end_of_file", "block_end", "far"],
)
def test_a_file_that_is_not_utf_8_is_refused(
    corpus: Path, content: bytes, offset_bytes: int
) -> None:
    corpus.write_bytes(content)
    with pytest.raises(ValueError, match=rf"corpus\.txt.*\b{offset_bytes}\b"):
        run_train_bpe(corpus, 300, [])


def test_a_missing_file_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_train_bpe(tmp_path / "nowhere.txt", 300, [])
