"""A network without source, as what `torch.export` says of it: one operation a line, parameters by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from nastool.core.task import Task
from nastool.deploy.codegen.layout import Prefixed, call, display, lines, literal
from nastool.deploy.codegen.recipe import Unwritable
from nastool.nets.costs import example

TRAINING = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2, "aten::instance_norm": 5}
"""Operations that do something else in training, and which argument says so."""

_MODEL = '''
class Model(nn.Module):
    """{about}

    What was recorded of a network whose source is not at hand; weights are zeros until they are loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, shape in PARAMETERS.items():
            self._owner(name).register_parameter(name.rpartition(".")[2], nn.Parameter(torch.zeros(shape)))
        for name, (shape, dtype) in BUFFERS.items():
            self._owner(name).register_buffer(name.rpartition(".")[2], torch.zeros(shape, dtype=dtype))

    def _owner(self, name: str) -> nn.Module:
        module: nn.Module = self
        for part in name.split(".")[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module

    def forward(self, {inputs}) -> Tensor:
        w = dict([*self.named_parameters(), *self.named_buffers()])
{body}
'''


def flat(network: nn.Module, task: Task, about: str) -> str:
    """The class `Model`, and what it needs but for imports. Unwritable: it cannot be exported."""
    tensors = network.state_dict(keep_vars=True)
    if len(set(map(id, tensors.values()))) < len(tensors):
        raise Unwritable("some of its tensors are the same")
    inputs = example(network, task, 2)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        program = torch.export.export(network, inputs, dynamic_shapes=[batch] * len(inputs))
    except Exception as error:  # of many kinds
        raise Unwritable(str(error)) from error
    kinds = {spec.arg.name: (spec.kind, spec.target) for spec in program.graph_signature.input_specs}
    texts = {name: f"w[{literal(str(target))}]" for name, (_, target) in kinds.items()}
    for name, (kind, _) in kinds.items():
        if kind == InputKind.USER_INPUT:
            texts[name] = name
        elif kind not in (InputKind.PARAMETER, InputKind.BUFFER):
            raise Unwritable("it has constants that are neither parameters nor buffers")
    named = ", ".join(f"{name}: Tensor" for name, (kind, _) in kinds.items() if kind == InputKind.USER_INPUT)
    body = "\n".join(line for node in program.graph.nodes for line in _statement(node, texts))
    parameters, buffers = [], []
    for name, tensor in program.state_dict.items():
        shape = str(tuple(tensor.shape))
        if isinstance(tensor, nn.Parameter):
            parameters.append(Prefixed(f"{literal(name)}: ", shape))
        else:
            buffers.append(Prefixed(f"{literal(name)}: ", f"({shape}, {tensor.dtype})"))
    tables = lines(display("{", tuple(parameters), "}"), before="PARAMETERS = ")
    tables += lines(display("{", tuple(buffers), "}"), before="BUFFERS = ")
    return "\n".join(tables) + f"\n\n{_MODEL.format(about=about, inputs=named, body=body)}".rstrip()


def _statement(node: fx.Node, texts: dict[str, str]) -> Iterator[str]:
    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return texts.get(value.name, value.name)
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(text, value))}]"
        return repr(value)

    if node.op == "output":
        yield f"        return {text(node.args[0][0])}"  # type: ignore[index]  # always a tuple
    elif node.op == "call_function" and node.users:
        target: Any = node.target
        args = list(map(text, node.args))
        name = f"operator.{target.__name__}"
        if isinstance(target, torch._ops.OpOverload):
            name = f"torch.ops.{target}"
            if (place := TRAINING.get(target._schema.name)) is not None:
                args[place] = "self.training"
        elif target.__module__ != "_operator":
            raise Unwritable(f"{target} has no name in torch")
        named = (Prefixed(f"{key}=", text(value)) for key, value in node.kwargs.items())
        yield from lines(call(name, *args, *named), 8, f"{node.name} = ")
    elif node.op == "get_attr":
        raise Unwritable("it has constants that are neither parameters nor buffers")
