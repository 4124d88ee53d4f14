"""Frozen layers: which of a model's they are, and the model cut in two where they end.

Frozen means: no gradient, no decay, and evaluation mode, so that BatchNorm's statistics stay and dropout within the
frozen part is off. What runs before what is read off the model's graph, not guessed from names.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from cxrtl.config import Train
from cxrtl.errors import ConfigError
from cxrtl.learn import backbones
from cxrtl.learn.dropout import CoinDropout, PointConv

_QUIET = "cxrtl_quiet"  # marks a module that stays in evaluation mode


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or next(module.children(), None) is None


@dataclass(frozen=True)
class Split:
    """`head(body(x))` is `model(x)`, with the model's own layers; `body` ends where the frozen layers do, or at the
    last place before from which a single tensor goes on. Both None where there is no such place."""

    body: nn.Module | None
    head: nn.Module | None


def frozen(train: Train) -> bool:
    return train.freeze != "none" or bool(train.freeze_until)


def check(train: Train) -> None:
    """Raises ConfigError where `train.freeze_until` names no module, or freezes nothing or everything."""
    if frozen(train):
        _Cut(train, backbones.build(train.backbone, 2, device="meta"), 2)


def apply(train: Train, model: nn.Module, classes: int) -> None:
    """Freeze what `train` asks for, in place: parameters by name, modules by a mark that `train_mode` heeds."""
    if not frozen(train):
        return
    cut = _Cut(train, model, classes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in cut.parameters)
    for module in cut.modules:
        setattr(module, _QUIET, True)
    heads = [model.get_submodule(key.rpartition(".")[0]) for key in backbones.head_keys(train.backbone, classes)]
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and child.p == 0.5 and not hasattr(child, _QUIET):
                setattr(parent, name, CoinDropout())
            elif type(child) is nn.Conv2d and child.kernel_size == (1, 1) and child in heads:
                setattr(parent, name, PointConv(child))


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training: a dropout, or stochastic depth."""
    return isinstance(module, _DropoutNd) or "stochastic" in type(module).__name__.lower()


def train_mode(model: nn.Module) -> None:
    """Training mode for all but the frozen modules."""
    model.train()
    for module in model.modules():
        if hasattr(module, _QUIET):
            module.eval()


def split(train: Train, model: nn.Module, classes: int) -> Split:
    """The model in two parts, which share its layers: loading, training or saving one is doing so to the other."""
    cut = _Cut(train, model, classes)
    if cut.place is None:
        return Split(None, None)
    before, after, value = cut.nodes[: cut.place + 1], cut.nodes[cut.place + 1 : -1], cut.live(cut.place).pop()
    constants = [node for node in before if node.op == "get_attr" and not set(node.users) <= set(before)]
    result = cut.nodes[-1].args[0]
    assert isinstance(result, fx.Node)
    return Split(_part(model, before, None, value), _part(model, [*constants, *after], value, result))


def _part(model: nn.Module, nodes: list[fx.Node], entry: fx.Node | None, result: fx.Node) -> nn.Module:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    if entry is not None:
        copies[entry] = graph.placeholder("features")
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[result])
    return fx.GraphModule(model, graph)


class _Cut:
    """The model's graph, in the order it runs, and how far it is frozen."""

    def __init__(self, train: Train, model: nn.Module, classes: int) -> None:
        self.model = model
        self.nodes = list(_Tracer().trace(model).nodes)
        self.index = {node: place for place, node in enumerate(self.nodes)}
        head = backbones.head_keys(train.backbone, classes)
        last = self._last(train, head)
        self.parameters = {name for node in self.nodes[: last + 1] for name in self._own(node)}
        if self.parameters & head or not self.parameters:
            what = "the new last layer, too" if self.parameters else "nothing"
            raise ConfigError(f"train.freeze_until = {train.freeze_until!r} freezes {what}: name another module")
        self.end = max(place for place in range(last + 1) if self._own(self.nodes[place]))
        self.modules = [
            model.get_submodule(str(node.target)) for node in self.nodes[: self.end + 1] if node.op == "call_module"
        ]
        self.place = self._place()

    def _last(self, train: Train, head: frozenset[str]) -> int:
        """Where the last frozen module ends. `backbone`: all before the child that holds the new last layer."""
        if not train.freeze_until:
            inside = next(iter(head)).partition(".")[0]
            return next(place for place, node in enumerate(self.nodes) if inside in _within(node)) - 1
        places = [place for place, node in enumerate(self.nodes) if train.freeze_until in _within(node)]
        if not places:
            names = list(dict.fromkeys(name for node in self.nodes for name in _within(node)))
            near = difflib.get_close_matches(train.freeze_until, names, n=5) or [n for n in names if "." not in n]
            raise ConfigError(
                f"train.freeze_until = {train.freeze_until!r} is no module of {train.backbone!r}. Near: "
                f"{', '.join(near)}."
            )
        return places[-1]

    def _own(self, node: fx.Node) -> list[str]:
        """Names of the parameters and buffers that a node uses."""
        name = str(node.target)
        if node.op == "get_attr":
            return [name]
        if node.op != "call_module":
            return []
        module = self.model.get_submodule(name)
        return [f"{name}.{key}" for key, _ in [*module.named_parameters(), *module.named_buffers()]]

    def live(self, place: int) -> set[fx.Node]:
        """Values computed up to `place` that are needed after it."""
        return {
            node
            for node in self.nodes[: place + 1]
            if node.op != "get_attr" and any(self.index[user] > place for user in node.users)
        }

    def _place(self) -> int | None:
        """The last place up to which nothing is trained or drawn and one value goes on; the frozen part may go on
        past its last layer, through pooling, say."""
        stop = next(
            (place for place in range(self.end + 1, len(self.nodes) - 1) if self._moves(self.nodes[place])),
            len(self.nodes) - 1,
        )
        return next((place for place in range(stop - 1, 0, -1) if len(self.live(place)) == 1), None)

    def _moves(self, node: fx.Node) -> bool:
        if self._own(node):
            return True
        return node.op == "call_module" and draws(self.model.get_submodule(str(node.target)))


def _within(node: fx.Node) -> list[str]:
    """Names of the modules that a node runs in, its own last. A module's second call bears an `@1`."""
    return [str(name).partition("@")[0] for name in node.meta.get("nn_module_stack", {})]
