"""A sub-model as an ONNX file, the format that all runtimes except PyTorch read."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from actionfusion.errors import RuntimeUnavailable
from actionfusion.inference.runtimes.packages import needed
from actionfusion.inference.runtimes.sub_models import SubModel

MODEL = "model.onnx"
OPSET = 20
# Above this the weights are in a file of their own, which runtimes map instead of copying.
_LARGE = 64 * 2**20
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_onnx(sub_model: SubModel, path: Path) -> None:
    """Write a sub-model as ONNX; weights of a large one go to ``{path}.data``.

    Args:
        sub_model: with inputs for one clip, or for any number (-1).
        path: of the file.

    Raises:
        RuntimeUnavailable: the exporter is not installed, or cannot export this sub-model.
    """
    needed("onnx", "onnxscript", extra="onnx")
    module = sub_model.make_module().eval()
    # An example of one clip would fix that number.
    free = sub_model.inputs[0].shape[0] == -1
    example = tuple(
        torch.from_numpy(value) for value in (sub_model.batched(2) if free else sub_model).example().values()
    )
    batch = torch.export.Dim("batch", min=1)
    large = sum(tensor.nbytes for tensor in module.state_dict().values()) > _LARGE
    try:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.inference_mode():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=(tuple({0: batch} for _ in example),) if free else None,
                input_names=[spec.name for spec in sub_model.inputs],
                output_names=list(sub_model.outputs),
                opset_version=OPSET,
                optimize=True,
                verify=False,
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph:
                for name in node.metadata_props.keys() - {_SCOPES}:  # paths of this machine, and half of a small file
                    del node.metadata_props[name]
            program.save(path, external_data=large)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"cannot be exported to ONNX ({' '.join(str(error).split())[:200]})"
        raise RuntimeUnavailable(f"sub-model {sub_model.name!r}", reason, "take runtime torch") from error


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence libraries while they work: standard output, warnings, and these loggers below errors."""
    named = [logging.getLogger(name) for name in loggers]
    # torch sets levels on loggers deep in its tree.
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith(tuple(f"{start}." for start in loggers)):
            named.append(logger)
    levels = [logger.level for logger in named]
    for logger in named:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)


def products_to_quantise(model: Any, sub_model: SubModel) -> set[str]:
    """Name the matrix products of an ONNX model that are the sub-model's ``quantised`` layers."""
    names = set()
    for node in model.graph.node:
        if node.op_type in {"MatMul", "Gemm"}:
            # The exporter writes a list of the modules around a node; the model itself is within the exported module.
            scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
            if any(f"'{layer}'" in scopes or f".{layer}'" in scopes for layer in sub_model.quantised):
                names.add(node.name)
    return names
