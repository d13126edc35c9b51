"""Contract: who may import whom, what may come from torch, and what every member has.

Read from the syntax trees, so nothing needs to be imported. Each checker is first shown to fail.
"""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .syntax import borrowed_names, imported_parts, private_imports

ROOT = Path(__file__).parents[1]
PACKAGES = {name: ROOT / "packages" / name for name in ("bpe", "nn", "optim", "train")}
MEMBERS = PACKAGES | {"trainer": ROOT / "apps" / "trainer"}

MAY_IMPORT = {
    "bpe": {"regex", "numpy", "zstandard"},
    "nn": {"torch", "einops", "jaxtyping"},
    "optim": {"torch", "jaxtyping"},
    "train": {"torch", "numpy", "jaxtyping"},
}

every_package = pytest.mark.parametrize("part", PACKAGES)
every_member = pytest.mark.parametrize("part", MEMBERS)


def sources(part: str) -> list[Path]:
    files = sorted((MEMBERS[part] / "src" / "scratch" / part).rglob("*.py"))
    assert len(files) > 1, f"no sources of {part} found"
    return files


def imports_of(part: str) -> set[str]:
    found: set[str] = set()
    for path in sources(part):
        package = ".".join(path.parent.relative_to(MEMBERS[part] / "src").parts)
        found |= imported_parts(path.read_text(encoding="utf-8"), package=package)
    # Above its own folder a member is still at home.
    return found - {f"scratch.{part}"} - sys.stdlib_module_names


def declared_dependencies(part: str) -> set[str]:
    """Return what a member's pyproject.toml asks for, its extras included, as import names."""
    project = tomllib.loads((MEMBERS[part] / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = [re.match(r"[\w.-]+", line)[0].lower() for line in requirements]
    return {re.sub("^scratch-", "scratch.", name).replace("-", "_") for name in names}


def test_the_workspace_has_no_other_members() -> None:
    found = {
        path.parent for folder in ("packages", "apps") for path in ROOT.glob(f"{folder}/*/src")
    }
    assert found == set(MEMBERS.values())


# --- who may import whom


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import torch.nn as nn, regex", {"torch", "regex"}),
        ("from scratch.bpe import Tokenizer", {"scratch.bpe"}),
        ("from scratch import optim", {"scratch.optim"}),
        ("import scratch.train._loop", {"scratch.train"}),
        ("from ..bpe import Tokenizer", {"scratch.bpe"}),
        ("from .. import bpe", {"scratch.bpe"}),
        ("def f():\n    import numpy", {"numpy"}),
        ("if TYPE_CHECKING:\n    from torch import Tensor", {"torch"}),
        ("importlib.import_module('torch')", {"torch"}),
        ("__import__('torch.nn')", {"torch"}),
        ("from ._linear import Linear\nfrom . import _norm\nfrom scratch.nn import silu", set()),
    ],
)
def test_imports_are_found_wherever_they_hide(source: str, parts: set[str]) -> None:
    assert imported_parts(source, package="scratch.nn") == parts


@every_package
def test_a_package_imports_only_what_it_may(part: str) -> None:
    assert imports_of(part) <= MAY_IMPORT[part]


@every_member
def test_a_member_declares_what_it_imports(part: str) -> None:
    assert imports_of(part) <= declared_dependencies(part)


def test_bpe_loads_no_torch() -> None:
    code = "import sys, scratch.bpe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from scratch.nn._rotary import rotate_pairs", {"scratch.nn._rotary.rotate_pairs"}),
        ("from scratch.nn import _rotary", {"scratch.nn._rotary"}),
        ("from scratch.nn import RMSNorm, __version__\nfrom ._run import go", set()),
    ],
)
def test_private_imports_are_found(source: str, private: set[str]) -> None:
    assert private_imports(source, package="scratch.trainer") == private


@pytest.mark.parametrize("folder", ["apps/trainer/src", "tests", "benchmarks"])
def test_outsiders_use_public_names_only(folder: str) -> None:
    package = "scratch.trainer" if folder.startswith("apps") else folder
    for path in (ROOT / folder).rglob("*.py"):
        assert not private_imports(path.read_text(encoding="utf-8"), package=package), path


# --- what may come from torch


@pytest.mark.parametrize(
    ("source", "borrowed"),
    [
        ("from torch import nn\nnn.Linear(1, 2)", {"torch.nn.Linear"}),
        ("import torch\ntorch.nn.Linear(1, 2)", {"torch.nn.Linear"}),
        ("import torch.nn as layers\nlayers.Linear(1, 2)", {"torch.nn.Linear"}),
        ("import torch.nn.functional as F\nF.silu(x)", {"torch.nn.functional.silu"}),
        ("from torch.nn import functional\nfunctional.silu", {"torch.nn.functional.silu"}),
        ("from torch.nn.functional import silu as s", {"torch.nn.functional.silu"}),
        ("from torch.nn import *", {"torch.nn.*"}),
        ("from torch import optim\nclass A(optim.AdamW): ...", {"torch.optim.AdamW"}),
        ("from torch.nn.utils import clip_grad_norm_", {"torch.nn.utils.clip_grad_norm_"}),
        ("from torch import nn\nhidden = nn", {"torch.nn"}),
        ("import torch\nf = torch.nn.functional", {"torch.nn.functional"}),
        ("import torch\nt = torch\nt.nn.functional.silu(x)", {"torch"}),
        ("import torch\ngetattr(torch, 'softmax')(x)", {"torch.softmax"}),
        ("import torch\ngetattr(torch, name)(x)", {"torch.*"}),
        ("import torch\ntorch.logsumexp(x, -1)", {"torch.logsumexp"}),
        ("import torch\ntorch.special.log_softmax(x, -1)", {"torch.special.log_softmax"}),
        ("import torch\ntorch.linalg.vector_norm(x)", {"torch.linalg.vector_norm"}),
        ("from torch import linalg\nlinalg.vector_norm(x)", {"torch.linalg.vector_norm"}),
        ("from torch import rms_norm", {"torch.rms_norm"}),
        ("import torch\ntorch.embedding(w, ids)", {"torch.embedding"}),
        ("import torch\ntorch.ops.aten._softmax(x)", {"torch.ops.aten._softmax"}),
        ("import torch\ntorch._C._nn.silu(x)", {"torch._C._nn.silu"}),
        ("from torch import Tensor\nTensor.softmax(x, -1)", {"torch.Tensor.softmax"}),
        ("x.softmax(-1)", {".softmax()"}),
        ("(x @ y).logsumexp(-1)", {".logsumexp()"}),
        ("f(x)[0].norm()", {".norm()"}),
        ("p.grad.norm()", {".norm()"}),
        ("self.weight.norm()", {".norm()"}),
    ],
)
def test_borrowed_names_are_found(source: str, borrowed: set[str]) -> None:
    assert borrowed_names(source) == borrowed


@pytest.mark.parametrize(
    "source",
    [
        "from torch import nn\nclass A(nn.Module):\n    w: nn.Parameter",
        "from torch import nn\nnn.init.trunc_normal_(nn.ModuleList()[0], std=1)",
        "import torch\nclass A(torch.optim.Optimizer): ...",
        "from torch.nn.functional import scaled_dot_product_attention",
        "from torch.nn.attention.flex_attention import flex_attention",
        "from torch.nn.attention import SDPBackend, sdpa_kernel",
        "import torch\ntorch.exp(torch.sigmoid(x)).sum(-1).sqrt()",
        "import torch\ntorch._foreach_mul_(x, 2)",
        "from ._softmax import softmax\nself.norm(softmax(x)) if config.norm else x",
    ],
)
def test_elementary_names_are_not_borrowed(source: str) -> None:
    assert borrowed_names(source) == set()


@pytest.mark.parametrize("part", ["nn", "optim"])
def test_layers_and_optimizers_are_built_from_scratch(part: str) -> None:
    for path in sources(part):
        assert not borrowed_names(path.read_text(encoding="utf-8")), path


# --- what every member has


@every_member
def test_a_member_is_complete(part: str) -> None:
    source = MEMBERS[part] / "src" / "scratch" / part
    texts = [MEMBERS[part] / name for name in ("pyproject.toml", "README.md", "CHANGELOG.md")]
    assert [path.name for path in texts if not (path.is_file() and path.read_text())] == []
    assert (source / "py.typed").is_file()
    menu = (source / "__init__.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', menu, re.MULTILINE)


@every_member
def test_nothing_hides_the_other_members(part: str) -> None:
    # An `__init__.py` here would make `scratch` an ordinary package of one part.
    assert not (MEMBERS[part] / "src" / "scratch" / "__init__.py").exists()
    assert [path.name for path in (MEMBERS[part] / "src").iterdir()] == ["scratch"]
    assert not (MEMBERS[part] / "tests" / "__init__.py").exists()
    assert not (ROOT / "scratch").exists()


@every_package
def test_the_menu_names_what_exists(part: str) -> None:
    module = importlib.import_module(f"scratch.{part}")
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
