"""The page of a report: what is said and where. How it looks and what it does are in `page/`."""

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingTypeStubs]

from .. import __version__
from ..watching.units import printable
from .comparison import differing_experiments, differing_keys
from .curves import QUANTITIES
from .report_tables import (
    labelled_name,
    of_one_data,
    results_table,
    settings_table,
    shown,
    two_columns,
)
from .run_view import RunView


@dataclass(frozen=True)
class _Plot:
    title: str
    unit: str


_PLOTS = {
    "loss": _Plot("Training loss", "nats a token"),
    "val_loss": _Plot("Held-out loss", "nats a token"),
    "grad_norm": _Plot("Gradient norm", "before clipping, on a log scale"),
    "lr": _Plot("Learning rate", "as the schedule sets it"),
    "tokens_per_second": _Plot("Throughput", "tokens a second"),
    "mfu": _Plot("Model FLOPs utilization", "share of the peak of the device"),
}


_HINT = '<p class="hint">Drag over a curve to come closer; double-click to see all of it.</p>'


def page(views: Sequence[RunView]) -> str:
    """Return the page: HTML that needs nothing else, and may load nothing else."""
    plotly, script = get_plotlyjs(), _file("report.js")
    return Template(_file("report.html")).substitute(
        policy=f"default-src 'none'; script-src {_allow(plotly)} {_allow(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:",
        title=escape(_title(views)),
        style=_file("report.css"),
        heading=escape(_heading(views)),
        lead=_lead(views),
        results=results_table(views),
        curves=_curves(views),
        settings=_settings(views),
        samples=_samples(views),
        environment=_environment(views),
        written=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        data=_data(views),
        plotly=plotly,
        script=script,
    )


def _title(views: Sequence[RunView]) -> str:
    names = ", ".join(view.name for view in views[:3])
    return f"{names}{' and others' if len(views) > 3 else ''} · training report"


def _heading(views: Sequence[RunView]) -> str:
    names = [view.name for view in views]
    if len(names) > 3:
        return f"{len(names)} runs compared"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _lead(views: Sequence[RunView]) -> str:
    """Return what the runs differ in, and which is the best."""
    sentences: list[str] = []
    settings = [view.settings for view in views]
    keys = differing_experiments(settings)
    keys += [key for key in differing_keys(settings) if key == "seed"]
    if 0 < len(keys) <= 4:
        parts = [f"{escape(key)} ({escape(_values(views, key))})" for key in keys]
        sentences.append(f"They differ in {_list(parts)}.")
    elif keys:
        sentences.append(f"They differ in {len(keys)} settings.")
    known = [view for view in views if view.figures.best_val_loss is not None]
    measured = [view for view in views if view.figures.val_bits_per_byte is not None]
    if not of_one_data(views):
        sentences.append(
            "Losses of a token do not compare, for the data differs; bits per byte do."
        )
        if measured:
            best = min(measured, key=lambda view: view.figures.val_bits_per_byte or 0.0)
            sentences.append(
                f"The lowest are <strong>{best.figures.val_bits_per_byte:.4f}</strong> "
                f"of {escape(best.name)}."
            )
    elif known:
        best = min(known, key=lambda view: view.figures.best_val_loss or 0.0)
        of_run = f" of {escape(best.name)}" if len(views) > 1 else ""
        ending = "" if best.figures.best_step == 1 else "s"
        sentences.append(
            f"The lowest held-out loss is <strong>{best.figures.best_val_loss:.4f}</strong>{of_run}"
            f", after {best.figures.best_step:,} update{ending}."
        )
    return " ".join(sentences)


def _values(views: Sequence[RunView], key: str) -> str:
    values: list[Any] = [view.settings.get(key) for view in views]
    are_numbers = all(isinstance(value, (int, float)) for value in values)
    texts = list(dict.fromkeys(map(shown, sorted(values) if are_numbers else values)))
    if len(texts) <= 6:
        return ", ".join(texts)
    return f"{texts[0]} to {texts[-1]}" if are_numbers else f"{len(texts)} values"


def _list(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _curves(views: Sequence[RunView]) -> str:
    """Return the place of each plot; the script draws into it."""
    lines = "one line" if len(views) == 1 else f"a line for each of {len(views)} runs"
    figures = [
        f'<figure class="plot"><figcaption id="caption-{key}"><h3>{plot.title}</h3> '
        f"<span>{plot.unit}</span></figcaption>"
        f'<div class="drawing" data-plot="{key}" role="img" aria-label="{plot.title}: {lines}. '
        'The figures are in the table of results."></div></figure>'
        for key, plot in _PLOTS.items()
        if any(_has(view, key) for view in views)
    ]
    if not figures:
        return "<p>There are no updates yet, and so no curves.</p>"
    legend = _legend(views) if len(views) > 1 else ""
    return _file("controls.html") + legend + _HINT + f'<div class="plots">{"".join(figures)}</div>'


def _has(view: RunView, key: str) -> bool:
    if key == "val_loss":
        return any(value is not None for value in view.curves["evaluations"]["val_loss"])
    return key in QUANTITIES and key in view.curves["updates"]


def _legend(views: Sequence[RunView]) -> str:
    items = "".join(
        f'<li><button type="button" data-run="{number}" aria-pressed="true">'
        f"{labelled_name(view)}</button></li>"
        for number, view in enumerate(views)
    )
    many = '<li><button type="button" id="all">hide all</button></li>' if len(views) > 4 else ""
    return f'<ul class="legend" aria-label="Runs shown in the curves">{items}{many}</ul>'


def _differing(views: Sequence[RunView]) -> list[str]:
    return differing_keys([view.settings for view in views])


def _settings(views: Sequence[RunView]) -> str:
    differing = _differing(views)
    shared = {key: value for key, value in views[0].settings.items() if key not in differing}
    keys = [key for key in differing if key != "out"]
    parts: list[str] = []
    if keys:
        parts.append(settings_table(views, [view.settings for view in views], keys))
    elif len(views) > 1:
        parts.append("<p>The settings of all runs are the same.</p>")
    title = "All settings" if len(views) == 1 else f"{len(shared)} settings that all share"
    parts.append(f"<details><summary>{title}</summary>{two_columns(shared)}</details>")
    return "".join(parts)


def _environment(views: Sequence[RunView]) -> str:
    """Return versions and machine: what all runs share, and what is special to each."""
    environments = [view.environment for view in views]
    differing = differing_keys(environments)
    shared = {key: value for key, value in environments[0].items() if key not in differing}
    own = settings_table(views, environments, differing) if differing else ""
    if not shared and not own:
        return "<p>The runs do not tell what they were made with.</p>"
    return (
        "<details><summary>Versions, machine and device</summary>"
        f"{two_columns(shared)}{own}</details>"
    )


def _samples(views: Sequence[RunView]) -> str:
    written = [view for view in views if view.samples]
    if not written:
        return ""
    blocks = [
        f"<details{' open' if len(written) == 1 else ''}><summary>{labelled_name(view)}</summary>"
        + "".join(_sample(record) for record in reversed(view.samples))
        + "</details>"
        for view in written
    ]
    return (
        '<section aria-labelledby="samples"><h2 id="samples">Samples</h2>'
        "<p>What the model wrote while it was trained, the latest first.</p>"
        f"{''.join(blocks)}</section>"
    )


def _sample(record: dict[str, Any]) -> str:
    return (
        f'<figure class="sample"><figcaption>after {record["step"]:,} updates</figcaption>'
        f"<pre><b>{escape(printable(str(record.get('prompt') or '')))}</b>"
        f"{escape(printable(record['sample']))}</pre></figure>"
    )


def _data(views: Sequence[RunView]) -> str:
    """Return what the script draws, as JSON in which nothing can end the element it is in."""
    runs = [
        {
            "name": view.name,
            "colour": view.colour,
            "dash": view.dash,
            "status": view.figures.status,
            "reason": view.figures.reason,
            **view.curves,
        }
        for view in views
    ]
    text = json.dumps({"runs": runs}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _allow(script: str) -> str:
    """Return the source that lets a browser run this script, and no other in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (files("scratch.trainer.report") / "page" / name).read_text(encoding="utf-8")
