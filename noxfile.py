"""The checks of the house: `uvx nox` runs those that every change must pass.

`lint`, `types`, `tests` use the environment of the workspace. `alone` builds the wheel of one part,
installs it with what it needs into an empty environment, and runs that part's suite there.
"""

import os
import re
import tempfile
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
UV = os.environ.get("UV", "uv")
FOLDERS = {
    "bpe": "packages/bpe",
    "nn": "packages/nn",
    "optim": "packages/optim",
    "train": "packages/train",
    "trainer": "apps/trainer",
}
# Which parts of the house a part needs, itself included.
NEEDS = {part: [part] for part in FOLDERS} | {"trainer": list(FOLDERS)}

nox.options.sessions = ["lint", "types", "tests", "alone"]
nox.options.default_venv_backend = "none"


@nox.session
def lint(session: nox.Session) -> None:
    """Look for mistakes and for lines that are not formatted."""
    session.run(UV, "run", "ruff", "check")
    session.run(UV, "run", "ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all sources, strictly."""
    session.run(UV, "run", "pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default suite; further arguments go to pytest."""
    session.run(UV, "run", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run what takes long, too."""
    session.run(UV, "run", "pytest", "-m", "slow", *session.posargs)


@nox.session
def distributed(session: nox.Session) -> None:
    """Run the long tests of several processes that train one model, one after the other."""
    marked = ("-m", "distributed and slow", "-n", "0")
    session.run(UV, "run", "pytest", *marked, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks: all, or those named, as in `nox -s bench -- bpe --megabytes 8`."""
    names, options = [], []
    for argument in session.posargs:
        (options if options or argument.startswith("-") else names).append(argument)
    scripts = sorted(
        path.stem.removeprefix("bench_") for path in ROOT.glob("benchmarks/bench_*.py")
    )
    for name in names or scripts:
        session.run(
            UV, "run", "--group", "bench", "python", f"benchmarks/bench_{name}.py", *options
        )


@nox.session(venv_backend="uv")
@nox.parametrize("part", list(FOLDERS), ids=list(FOLDERS))
def alone(session: nox.Session, part: str) -> None:
    """Run the suite of one part with nothing else of the house installed but what it needs."""
    member = nox.project.load_toml(ROOT / FOLDERS[part] / "pyproject.toml")
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        for name in NEEDS[part]:
            session.run(
                UV, "build", "-q", "--wheel", "--package", f"scratch-{name}", "-o", folder,
                external=True,
            )  # fmt: skip
        pins = wheels / "constraints.txt"
        pins.write_text("\n".join(_read_pins()))
        session.install(
            *map(str, wheels.glob("*.whl")),
            *nox.project.dependency_groups(member, "test"),
            "--constraint",
            str(pins),
        )
    session.run("python", "-c", _only(NEEDS[part], torch=part != "bpe"))
    session.run("pytest", f"{FOLDERS[part]}/tests", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the newest versions that fit together, in `pyproject.toml`, without an address."""
    path = ROOT / "pyproject.toml"
    before = path.read_text()
    path.write_text(_with_pins(before, []))
    try:
        session.run(UV, "lock", "--upgrade")
        exported = session.run(
            UV, "export", "-q", "--all-packages", "--all-groups", "--no-emit-workspace",
            "--no-hashes", "--no-annotate", "--no-header", silent=True,
        )  # fmt: skip
        pins = [line.strip() for line in str(exported).splitlines() if "==" in line]
        path.write_text(_with_pins(before, pins))
    except BaseException:
        path.write_text(before)
        raise


def _read_pins() -> list[str]:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return root["tool"]["uv"]["constraint-dependencies"]


def _with_pins(text: str, pins: list[str]) -> str:
    lines = "".join(f'    "{pin.replace(chr(34), chr(39))}",\n' for pin in pins)
    block = f"constraint-dependencies = [\n{lines}]\n"
    text, count = re.subn(r"(?ms)^constraint-dependencies = \[\n.*?^\]\n", block, text)
    if count != 1:
        raise ValueError(f"pyproject.toml must hold constraint-dependencies once, got {count}")
    return text


def _only(parts: list[str], *, torch: bool) -> str:
    """Return a program that fails unless just these parts are installed, as wheels."""
    return "\n".join(
        [
            "import importlib.util, pathlib, pkgutil, scratch, sysconfig",
            "site = pathlib.Path(sysconfig.get_path('purelib'))",
            "assert [pathlib.Path(p) for p in scratch.__path__] == [site / 'scratch'], scratch",
            "found = sorted(module.name for module in pkgutil.iter_modules(scratch.__path__))",
            f"assert found == {sorted(parts)!r}, found",
            f"assert (importlib.util.find_spec('torch') is not None) is {torch}, 'torch'",
        ]
    )
