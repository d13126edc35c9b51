"""The tables of a report, as HTML that is readable without a script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from ..runs.figures import Figures
from ..watching.units import clock, decimals, short
from .comparison import Spread, differing_experiments, spread
from .run_view import RunView


@dataclass(frozen=True)
class _Column:
    """A column of the results: its title, the value of a run, and that as text."""

    title: str
    value: Callable[[Figures], float | None]
    text: Callable[[float], str]
    is_result: bool = False


_BEST = _Column("Best", lambda f: f.best_val_loss, lambda v: decimals(v, 4), True)
_BITS = _Column("Bits per byte", lambda f: f.val_bits_per_byte, lambda v: decimals(v, 4), True)
_COLUMNS = (
    _Column("Held-out loss", lambda f: f.val_loss, lambda v: decimals(v, 4), True),
    _BEST,
    _Column("Perplexity", lambda f: f.val_perplexity, lambda v: decimals(v, 2), True),
    _BITS,
    _Column("Updates", lambda f: f.step, lambda v: f"{v:,.0f}"),
    _Column("Tokens", lambda f: f.tokens, short),
    _Column("Time", lambda f: f.seconds, clock),
    _Column("Tokens/s", lambda f: f.tokens_per_second, short),
    _Column("MFU", lambda f: f.mfu, lambda v: f"{v:.1%}"),
    _Column("Parameters", lambda f: f.parameters, short),
)

# How a line is drawn: lengths of strokes and gaps.
_STROKES = ("", "7 3", "2 3", "7 3 2 3", "12 3", "12 3 2 3")


def results_table(views: Sequence[RunView]) -> str:
    """Return the figures of each run, and of runs that differ only in the seed their mean."""
    columns = [c for c in _COLUMNS if any(c.value(view.figures) is not None for view in views)]
    head = "".join(f'<th scope="col">{column.title}</th>' for column in columns)
    judge = _BEST if of_one_data(views) else _BITS
    best = min((v for view in views if (v := judge.value(view.figures)) is not None), default=None)
    ordered = sorted(views, key=lambda view: view.group)
    groups = [list(members) for _, members in groupby(ordered, key=lambda view: view.group)]
    rows: list[str] = []
    for members in groups:
        if len(members) > 1:
            rows.append(_group_row(members, groups, columns))
        rows += [
            _run_row(view, columns, (judge, best), inside=len(members) > 1) for view in members
        ]
    note = (
        "<p class='note'>Lines in bold are the mean ± standard deviation of finished runs that "
        "differ only in the seed.</p>"
        if len(groups) < len(views)
        else ""
    )
    return (
        '<div class="scroll"><table class="results"><thead><tr><th scope="col">Run</th>'
        f'<th scope="col">Status</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def settings_table(
    views: Sequence[RunView], values: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> str:
    """Return the values of some keys for each run; the longer side of the table goes down."""
    if len(keys) > len(views):
        head = "".join(f'<th scope="col">{labelled_name(view)}</th>' for view in views)
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th>'
            + "".join(f"<td>{escape(shown(of_run.get(key)))}</td>" for of_run in values)
            + "</tr>"
            for key in keys
        )
        corner = "Setting"
    else:
        head = "".join(f'<th scope="col">{escape(key)}</th>' for key in keys)
        rows = "".join(
            f'<tr><th scope="row">{labelled_name(view)}</th>'
            + "".join(f"<td>{escape(shown(of_run.get(key)))}</td>" for key in keys)
            + "</tr>"
            for view, of_run in zip(views, values, strict=True)
        )
        corner = "Run"
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">{corner}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def two_columns(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(shown(value))}</dd></div>"
        for key, value in values.items()
    )
    return f'<dl class="values">{rows}</dl>'


def labelled_name(view: RunView) -> str:
    """Return the name of a run beside a piece of its line."""
    return (
        '<span class="name"><svg class="line" viewBox="0 0 26 8" aria-hidden="true">'
        f'<path d="M1 4H25" stroke="var(--run-{view.colour})" '
        f'stroke-dasharray="{_STROKES[view.dash]}"/></svg>'
        f"<span>{escape(view.name)}</span></span>"
    )


def shown(value: Any) -> str:
    """Return a value of the settings as a person would write it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "—"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value) or "—"


def of_one_data(views: Sequence[RunView]) -> bool:
    """Return whether losses compare: those of a token do not where the tokens are others."""
    return len({str(view.settings.get("data")) for view in views}) <= 1


def _run_row(
    view: RunView,
    columns: Sequence[_Column],
    best: tuple[_Column, float | None],
    *,
    inside: bool,
) -> str:
    figures = view.figures
    cells = "".join(
        _cell(column, _text(column, figures), is_best=_is_best(column, figures, best))
        for column in columns
    )
    reason = f'<span class="reason">{escape(figures.reason)}</span>' if figures.reason else ""
    is_part = figures.share is not None and figures.status != "finished"
    share = f" {figures.share:.0%}" if is_part else ""
    return (
        f'<tr class="{"member" if inside else "run"}">'
        f'<th scope="row">{labelled_name(view)}</th><td data-title="Status">'
        f'<span class="status {figures.status}">{figures.status}{share}</span>{reason}</td>'
        f"{cells}</tr>"
    )


def _group_row(
    members: Sequence[RunView], groups: Sequence[Sequence[RunView]], columns: Sequence[_Column]
) -> str:
    finished = [view.figures for view in members if view.figures.status == "finished"]
    cells = "".join(
        _cell(column, _spread(column, spread([column.value(figures) for figures in finished])))
        for column in columns
    )
    count = (
        f"{len(members)} seeds"
        if len(finished) == len(members)
        else f"{len(finished)} of {len(members)} seeds"
    )
    return (
        f'<tr class="group"><th scope="row">{escape(_group_name(members, groups))}</th>'
        f'<td data-title="Mean of">{count}</td>{cells}</tr>'
    )


def _group_name(members: Sequence[RunView], groups: Sequence[Sequence[RunView]]) -> str:
    """Return what tells this group from the others: the settings that differ between groups."""
    keys = differing_experiments([group[0].settings for group in groups])
    brief = [key.split(".")[-1] for key in keys]
    called = brief if len(set(brief)) == len(keys) else keys
    own = [
        f"{name} {shown(members[0].settings.get(key))}"
        for name, key in zip(called, keys, strict=True)
    ]
    return ", ".join(own) or "all runs"


def _text(column: _Column, figures: Figures) -> str:
    value = column.value(figures)
    return "—" if value is None else column.text(value)


def _spread(column: _Column, of_group: Spread | None) -> str:
    if of_group is None:
        return "—"
    if of_group.deviation is None or not column.is_result:
        return column.text(of_group.mean)
    return f"{column.text(of_group.mean)} <small>± {column.text(of_group.deviation)}</small>"


def _is_best(column: _Column, figures: Figures, best: tuple[_Column, float | None]) -> bool:
    judge, value = best
    return column is judge and value is not None and judge.value(figures) == value


def _cell(column: _Column, text: str, *, is_best: bool = False) -> str:
    marked = f"<strong>{text}</strong>" if is_best else text
    return f'<td class="number" data-title="{column.title}">{marked}</td>'
