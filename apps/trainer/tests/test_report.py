"""The report: one page that a real browser draws without a network, with nothing foreign in it."""

import html
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scratch.trainer.cli import main
from scratch.trainer.config import OptimizerSettings, TrainSettings
from scratch.trainer.toml import dump_toml

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium or google-chrome to open the page with"
)

HOSTILE_NAME = '<img src=x onerror="document.title=1">&amp;'
HOSTILE_TEXT = "</pre></script><script>document.title = 'run by a sample'</script>\n  two  spaces"


def make_run(
    path: Path, *, lr: float = 1e-3, seed: int = 0, updates: int = 30, **changes: Any
) -> Path:
    """Write the files of a run whose loss falls to 3 and whose held-out loss is a little higher."""
    path.mkdir(parents=True)
    changes |= {"seed": seed, "optimizer": OptimizerSettings(lr=lr)}
    settings = TrainSettings(data=Path("data"), out=path, steps=30, **changes)
    path.joinpath("config.toml").write_text(dump_toml(settings))
    path.joinpath("environment.json").write_text(json.dumps({"python": "3.11", "seed": seed}))
    lines: list[dict[str, Any]] = []
    for step in range(1, updates + 1):
        place = {"step": step, "tokens": 256 * step, "seconds": step / 2}
        loss = 3 + math.exp(-step / 9) + seed / 100 + lr
        rest = {"lr": lr, "grad_norm": 1 / step, "tokens_per_second": 512.0}
        lines.append({**place, "loss": loss, **rest})
        if step % 10 == 0:
            held_out = {"val_loss": loss + 0.5, "val_perplexity": 33.0, "val_bits_per_byte": 1.25}
            lines.append({**place, **held_out})
    append(path, *lines)
    return path


def append(path: Path, *records: dict[str, Any]) -> None:
    with path.joinpath("metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def finish(path: Path) -> None:
    append(path, {"step": 30, "event": "finished", "reason": ""})


def write_page(out: Path, *runs: Path) -> str:
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


class Opened(NamedTuple):
    """A page after its scripts ran, and what the browser complained of."""

    dom: str
    complaints: list[str]


def open_page(page: Path, profile: Path) -> Opened:
    assert CHROMIUM is not None
    result = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    complaints = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    return Opened(result.stdout, complaints)


def lines_of(dom: str, plot: str) -> list[str]:
    """Return the solid curves of a plot, as the data of their paths."""
    drawing = dom.split(f'data-plot="{plot}"')[1].split("</figure>")[0]
    return re.findall(r'<path class="js-line" d="([^"]*)"[^>]*stroke-width: 2px', drawing)


def visible(page: str) -> str:
    """Return the text of a page, without tags, styles and scripts."""
    without = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def row(page: str, name: str) -> str:
    """Return the text of the line of a run or of a group in the table of results."""
    table = page.split('class="results"')[1].split("</table>")[0]
    [found] = [text for text in map(visible, table.split("<tr")) if f"> {name} " in f"{text} "]
    return found.split("> ", 1)[1]


@needs_chromium
def test_a_browser_without_network_draws_every_run_and_runs_nothing_foreign(
    tmp_path: Path,
) -> None:
    quiet, hostile = make_run(tmp_path / "runs" / "quiet"), make_run(tmp_path / "runs" / "x")
    hostile = hostile.rename(hostile.with_name(HOSTILE_NAME))
    append(hostile, {"step": 31, "prompt": "<b>", "sample": HOSTILE_TEXT})
    append(hostile, {"step": 31, "event": "failed", "reason": HOSTILE_TEXT})
    page = write_page(tmp_path / "report.html", tmp_path / "runs")
    opened = open_page(tmp_path / "report.html", tmp_path / "profile")

    assert opened.complaints == []
    for plot in ("loss", "val_loss", "grad_norm", "lr", "tokens_per_second"):
        assert [len(data) > 20 for data in lines_of(opened.dom, plot)] == [True, True], plot
    assert 'data-plot="mfu"' not in opened.dom
    assert "<title>" + html.escape(HOSTILE_NAME, quote=False) in opened.dom
    assert "<img" not in opened.dom
    assert opened.dom.count("<script") == page.count("<script") == 3
    assert f"<b>&lt;b&gt;</b>{html.escape(HOSTILE_TEXT)}</pre>" in page
    assert row(opened.dom, quiet.name).startswith("quiet stopped 100% 3.5")


def test_the_page_asks_for_nothing_and_may_not(tmp_path: Path) -> None:
    page = write_page(tmp_path / "report.html", make_run(tmp_path / "a"))
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert page.count("/**\n* plotly.js v") == 1
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|action)\s*=|url\(|@import|https?:""", own) == []


def test_runs_that_differ_only_in_the_seed_are_a_group_with_mean_and_spread(tmp_path: Path) -> None:
    for lr in (0.01, 0.1):
        for seed in (0, 1, 2):
            run = make_run(tmp_path / "sweep" / f"{lr}-{seed}", lr=lr, seed=seed)
            if (lr, seed) == (0.1, 2):
                append(run, {"step": 30, "event": "diverged", "reason": "went up"})
            else:
                finish(run)
    page = write_page(tmp_path / "report.html", tmp_path / "sweep")
    text = visible(page)
    assert "6 runs compared" in text
    assert "They differ in optimizer.lr (0.01, 0.1) and seed (0, 1, 2)." in text
    # 3 + exp(-30 / 9) + lr + 0.5 + the mean of 0, 1 and 2 hundredths, which are 0.01 apart
    assert row(page, "lr 0.01").startswith("lr 0.01 3 seeds 3.5557 ± 0.0100 3.5557 ± 0.0100 33.00")
    assert row(page, "lr 0.1").startswith("lr 0.1 2 of 3 seeds 3.6407 ± 0.0071")
    assert "✕" not in row(page, "0.1-2")
    assert row(page, "0.1-2").startswith("0.1-2 diverged 100% went up 3.65")


def test_settings_that_differ_are_apart_from_those_that_all_share(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a", lr=0.25), make_run(tmp_path / "b", lr=0.5)
    page = write_page(tmp_path / "report.html", *runs)
    differing, shared = page.split('id="settings"')[1].split("<details>")[:2]
    assert visible(f"<h2 {differing}") == "Settings Run optimizer.lr a 0.25 b 0.5"
    assert "optimizer.lr" not in shared
    assert "optimizer.beta2 0.95" in visible(shared)
    assert "python 3.11" in visible(page.split('id="environment"')[1])


def test_samples_keep_their_white_space_and_the_latest_is_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    for step in range(100):
        sample = {"step": step, "prompt": "Once", "sample": f" upon\n  a {step}"}
        append(run, sample)
    page = write_page(tmp_path / "report.html", run)
    shown = re.findall(r"<pre><b>Once</b> upon\n  a (\d+)</pre>", page)
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == ("99", "0")


def test_a_run_without_updates_is_shown_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", updates=0)
    page = write_page(tmp_path / "report.html", run)
    assert row(page, "a").startswith("a new 0%")
    assert "There are no updates yet" in visible(page)


def test_losses_that_are_not_finite_and_a_torn_line_are_no_obstacle(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    append(run, {"step": 31, "tokens": 1, "seconds": 1, "loss": None, "val_loss": math.nan})
    with run.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"step": 32, "lo')
    page = write_page(tmp_path / "report.html", run)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["runs"][0]["updates"]["loss"]["mean"][-1] is None
    assert data["runs"][0]["updates"]["step"][-1] == 31


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", updates=20_000)
    page = write_page(tmp_path / "report.html", run)
    assert len(page.split('id="data">')[1].split("</script>")[0]) < 400_000


def test_a_run_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a")
    page = write_page(tmp_path / "report.html", run, tmp_path / "runs", run)
    assert len(json.loads(page.split('id="data">')[1].split("</script>")[0])["runs"]) == 1


def test_the_path_is_printed_and_an_old_page_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "report.html"
    write_page(out, make_run(tmp_path / "a"))
    write_page(out, make_run(tmp_path / "b"))
    assert capsys.readouterr().out == f"{out}\n{out}\n"
    assert "<h1>b</h1>" in out.read_text()
    assert list(out.parent.iterdir()) == [out]


def test_what_is_no_run_is_refused_and_the_old_page_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    tmp_path.joinpath("empty").mkdir()
    for name, what in (("empty", "got none"), ("nowhere", "it does not exist")):
        assert main(["report", str(tmp_path / name), "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert f"{name} must be the directory of a run" in error
        assert what in error
        assert "trainer runs" in error
    assert main(["report", "--out", str(out)]) == 1
    assert "at least one run" in capsys.readouterr().err
    assert out.read_text() == "old"


def test_what_cannot_be_written_leaves_the_old_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk went away")

    out = tmp_path / "new" / "report.html"
    old = write_page(out, make_run(tmp_path / "a"))
    monkeypatch.setattr(Path, "replace", fail)
    assert main(["report", str(make_run(tmp_path / "b")), "--out", str(out)]) == 1
    assert "the disk went away" in capsys.readouterr().err
    assert out.read_text() == old
    assert list(out.parent.iterdir()) == [out]


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a").rename(tmp_path / os.fsdecode(b"a\xff"))
    append(run, {"step": 30, "prompt": "", "sample": "half \ud83d of it"})
    page = write_page(tmp_path / "report.html", run)
    assert "<h1>a?</h1>" in page
    assert "half ? of it" in page


def test_out_must_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(make_run(tmp_path / "a")), "--out", str(tmp_path)]) == 1
    assert "--out must be a file, got the directory" in capsys.readouterr().err


PROBE = """<!doctype html>
<iframe id="frame" src="report.html" style="width: 375px; height: 3000px"></iframe>
<pre id="answer"></pre>
<script>
const frame = document.getElementById("frame");
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
frame.onload = async () => {
  const page = frame.contentDocument, answer = {};
  const count = () => page.querySelectorAll('[data-plot="loss"] .js-line').length;
  const title = () => page.querySelector('[data-plot="loss"] .xtitle').textContent;
  const path = () => page.querySelector('[data-plot="loss"] .js-line').getAttribute("d");
  await wait(500);
  answer.beyond = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  answer.all = count();
  answer.updates = title();
  const linear = path();
  for (const [name, value] of [["place", "tokens"], ["place", "seconds"]]) {
    page.querySelector(`[name="${name}"][value="${value}"]`).click();
    await wait(300);
    answer[value] = title();
  }
  page.querySelector('[name="log-loss"]').click();
  await wait(300);
  answer.logChanges = path() !== linear;
  const slider = page.querySelector('[name="window"]');
  answer.usual = page.querySelector("output").textContent;
  slider.value = slider.min;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await wait(300);
  answer.raw = page.querySelector("output").textContent;
  answer.lines = count();
  page.querySelector('[data-run="0"]').click();
  await wait(300);
  answer.without = count();
  answer.pressed = page.querySelector('[data-run="0"]').getAttribute("aria-pressed");
  const drawing = page.querySelector('[data-plot="loss"]');
  const fits = () => {
    const svg = drawing.querySelector(".main-svg");
    return svg.clientWidth === drawing.clientWidth && svg.clientHeight === drawing.clientHeight;
  };
  frame.contentWindow.dispatchEvent(new Event("beforeprint"));
  answer.paper = [fits(), drawing.clientWidth > 600];
  frame.contentWindow.dispatchEvent(new Event("afterprint"));
  answer.phone = [fits(), drawing.clientWidth > 600];
  document.getElementById("answer").textContent = JSON.stringify(answer);
};
</script>
"""


@pytest.mark.slow
@needs_chromium
def test_a_phone_needs_no_sideways_scrolling_and_every_control_works(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        long = f"{'long' * 20}-{seed}"
        make_run(tmp_path / "sweep" / long, seed=seed, updates=200, sample_prompt=long)
    write_page(tmp_path / "report.html", tmp_path / "sweep")
    tmp_path.joinpath("probe.html").write_text(PROBE)
    opened = open_page(tmp_path / "probe.html", tmp_path / "profile")
    found = opened.dom.split('<pre id="answer">')[1].split("</pre>")[0]
    assert json.loads(html.unescape(found)) == {
        "beyond": 0,
        "all": 6,
        "updates": "updates",
        "tokens": "tokens",
        "seconds": "seconds",
        "logChanges": True,
        "usual": "mean over 5 updates",
        "raw": "every update",
        "lines": 3,
        "without": 2,
        "pressed": "false",
        "paper": [True, True],
        "phone": [True, False],
    }
    assert opened.complaints == []


@pytest.mark.slow
@needs_chromium
def test_a_single_update_is_a_point_since_it_makes_no_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", updates=1)
    append(run, {"step": 1, "tokens": 256, "seconds": 0.5, "val_loss": 4.0})
    page = write_page(tmp_path / "report.html", run)
    assert visible(page).count("after 1 update.") == 1
    opened = open_page(tmp_path / "report.html", tmp_path / "profile")
    for plot in ("loss", "val_loss", "grad_norm", "lr", "tokens_per_second"):
        drawing = opened.dom.split(f'data-plot="{plot}"')[1].split("</figure>")[0]
        assert len(re.findall(r'<path class="point', drawing)) == 1, plot


@pytest.mark.slow
@needs_chromium
def test_twelve_runs_that_diverged_or_not_are_twelve_lines_and_a_cross(tmp_path: Path) -> None:
    for number in range(12):
        run = make_run(tmp_path / "sweep" / f"run-{number:02}", lr=(number + 1) / 100)
    append(run, {"step": 31, "tokens": 31, "seconds": 9, "loss": 1e30})
    append(run, {"step": 31, "event": "diverged", "reason": "far above its lowest"})
    write_page(tmp_path / "report.html", tmp_path / "sweep")
    opened = open_page(tmp_path / "report.html", tmp_path / "profile")
    assert len(lines_of(opened.dom, "loss")) == 12
    drawing = opened.dom.split('data-plot="loss"')[1].split("</figure>")[0]
    assert len(re.findall(r'<path class="point', drawing)) == 1


def test_losses_of_other_tokens_are_not_compared_but_bits_per_byte_are(tmp_path: Path) -> None:
    coarse, fine = make_run(tmp_path / "coarse"), make_run(tmp_path / "fine")
    config = fine / "config.toml"
    config.write_text(config.read_text().replace('data = "data"', 'data = "other"'))
    place = {"step": 30, "tokens": 1, "seconds": 1.0}
    append(coarse, {**place, "val_loss": 2.0, "val_perplexity": 7.0, "val_bits_per_byte": 1.5})
    append(fine, {**place, "val_loss": 4.0, "val_perplexity": 54.0, "val_bits_per_byte": 1.1})
    page = write_page(tmp_path / "report.html", coarse, fine)
    assert "The lowest are <strong>1.1000</strong> of fine" in page
    assert "The lowest held-out loss" not in page
    assert "<strong>1.1000</strong></td>" in page
    assert "<strong>2.0000</strong></td>" not in page
