import json
from pathlib import Path

import pytest

from scratch.trainer.runs.figures import Figures
from scratch.trainer.sweep.sweep_plan import Training
from scratch.trainer.sweep.sweep_results import Result, find_best, newest_update, share_done

LENGTHS = {"steps": None, "train_tokens": None, "train_seconds": None}


def test_the_newest_update_is_found_at_the_end_of_a_long_journal(tmp_path: Path) -> None:
    assert newest_update(tmp_path) is None
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 501):
            line = {"step": step, "loss": 2.0, "tokens": 10 * step, "seconds": step / 9}
            file.write(json.dumps(line) + "\n")
        file.write('{"step": 500, "val_loss": 2.5}\n{"step": 501, "lo')
    record = newest_update(tmp_path)
    assert record is not None
    assert record["step"] == 500


@pytest.mark.parametrize(
    ("length", "share"),
    [({"steps": 1000}, 0.5), ({"train_tokens": 4000}, 1.0), ({"train_seconds": 200.0}, 0.25)],
    ids=str,
)
def test_what_is_done_is_told_by_what_says_how_long_to_train(
    length: dict[str, float], share: float
) -> None:
    training = Training(name="a", values={}, arguments=[], settings={**LENGTHS, **length})
    record = {"step": 500, "tokens": 5000, "seconds": 50.0, "loss": 2.0}
    assert share_done(training, record) == share


def test_trainings_with_other_tokenizers_are_ranked_by_bits_per_byte() -> None:
    def result(data: str, loss: float, **held_out: float) -> Result:
        training = Training(name=data, values={}, arguments=[], settings={"data": data})
        figures = Figures(status="finished", reason="", loss=loss, **held_out)
        return Result(training=training, path=Path(data), figures=figures)

    best = find_best(
        [
            result("small vocabulary", 3.0, val_loss=3.1, val_bits_per_byte=2.0),
            result("large vocabulary", 4.0, val_loss=4.1, val_bits_per_byte=1.5),
            result("nothing held out", 1.0),
        ]
    )
    assert best is not None
    assert best.result.training.name == "large vocabulary"
    assert best.mean == 4.1
