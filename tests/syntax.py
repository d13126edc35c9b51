"""What a source file imports, and which names of torch it uses, read from its syntax tree."""

import ast

# The only definitions that may come from torch.nn and torch.optim.
ALLOWED_OF_TORCH = {
    "torch.nn.Module",
    "torch.nn.ModuleDict",
    "torch.nn.ModuleList",
    "torch.nn.Parameter",
    "torch.nn.Sequential",
    "torch.nn.attention",  # kernel selectors and flex attention
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.init",
    "torch.optim.Optimizer",
}
# Whole layers, losses and optimizers that torch keeps elsewhere.
READY_MADE_METHODS = {"log_softmax", "logcumsumexp", "logsumexp", "norm", "renorm", "softmax"}
READY_MADE = {f"torch.{name}" for name in READY_MADE_METHODS} | {
    "torch._C",
    "torch._fused_adamw_",
    "torch._fused_rms_norm",
    "torch._log_softmax",
    "torch._softmax",
    "torch.embedding",
    "torch.frobenius_norm",
    "torch.layer_norm",
    "torch.linalg.matrix_norm",
    "torch.linalg.norm",
    "torch.linalg.vector_norm",
    "torch.native_layer_norm",
    "torch.ops.aten",
    "torch.rms_norm",
    "torch.special.log_softmax",
    "torch.special.logsumexp",
    "torch.special.softmax",
}
READY_MADE |= {f"torch.Tensor.{name}" for name in READY_MADE_METHODS}
# Importing these is how one reaches the rest; holding them as values would hide what is used.
MODULES = {"torch", "torch.nn", "torch.nn.functional", "torch.optim"}


def imported_modules(source: str, *, package: str) -> set[str]:
    """Return the full names of what `source`, a module of `package`, imports.

    `from a import b` gives `a.b`: b may be a module.
    """
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level]
            origin = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            modules |= {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _name_called(node) in ("import_module", "__import__"):
            modules |= {str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)}
    return modules


def imported_parts(source: str, *, package: str) -> set[str]:
    """Return what `source` depends on besides its own package: `torch`, `scratch.bpe`, ..."""
    names = [module.split(".") for module in imported_modules(source, package=package)]
    parts = {".".join(name[:2]) if name[0] == "scratch" else name[0] for name in names}
    return parts - {package}


def private_imports(source: str, *, package: str) -> set[str]:
    """Return the private modules and names of other parts of this house that `source` imports."""
    return {
        module
        for module in imported_modules(source, package=package)
        if module.startswith("scratch.") and not module.startswith(f"{package}.")
        if any(name.startswith("_") and name != "__version__" for name in module.split("."))
    }


def borrowed_names(source: str) -> set[str]:
    """Return what `source` takes from torch ready-made, though it is to be built from scratch."""
    visitor = _NamesUsed()
    visitor.visit(ast.parse(source))
    of_torch = {name for name in visitor.names if name.split(".")[0] == "torch"}
    below = {name for name in of_torch if _is_below(name, {"torch.nn", "torch.optim"})}
    allowed = {name for name in below if _is_below(name, ALLOWED_OF_TORCH)}
    ready_made = {name for name in of_torch if _is_below(name, READY_MADE | {"torch.*"})}
    return (below - allowed) | ready_made | (of_torch & MODULES) | visitor.ready_made_methods


class _NamesUsed(ast.NodeVisitor):
    """Collects dotted names as they would be without `as` and `from`, and calls of methods."""

    def __init__(self) -> None:
        self.full_names: dict[str, str] = {}
        self.names: set[str] = set()
        self.ready_made_methods: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.split(".")[0]
            self.full_names[alias.asname or top] = alias.name if alias.asname else top

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = f"{'.' * node.level}{node.module}.{alias.name}"
            self.full_names[alias.asname or alias.name] = name
            if name not in MODULES:
                self.names.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        self.names |= {name for name in [self._full_name(node)] if name}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if name := self._full_name(node):
            self.names.add(name)
        else:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if name := self._full_name(node):
            self.names.add(name)
            return
        if isinstance(node.func, ast.Attribute) and node.func.attr in READY_MADE_METHODS:
            owner = node.func.value
            a_layer_of_ours = isinstance(owner, ast.Name) and owner.id == "self"
            if not a_layer_of_ours and not self._full_name(node.func):
                self.ready_made_methods.add(f".{node.func.attr}()")
        self.generic_visit(node)

    def _full_name(self, node: ast.expr) -> str | None:
        match node:
            case ast.Name(name):
                return self.full_names.get(name)
            case ast.Attribute(owner, name):
                prefix = self._full_name(owner)
                return f"{prefix}.{name}" if prefix else None
            case ast.Call(ast.Name("getattr"), [owner, name, *_]):
                prefix = self._full_name(owner)
                attribute = name.value if isinstance(name, ast.Constant) else "*"
                return f"{prefix}.{attribute}" if prefix else None
            case _:
                return None


def _name_called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _is_below(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
