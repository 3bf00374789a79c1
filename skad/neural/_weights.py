"""Weights in files that hold tensors and plain values, and can run no code."""

import json
from pathlib import Path

import numpy as np
import torch

__all__ = ["load_weights", "read_tensors", "read_weights", "write_weights"]

_NET, _STATE = "net.", "state."


def write_weights(path, weights, state):
    """Write a network's weights, and attributes that are numbers, tuples or arrays."""
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {Path(path).absolute().parent}.")
    # Copies: layers that share weights share memory, which safetensors refuses.
    tensors = {_NET + name: tensor.cpu().clone() for name, tensor in weights.items()}
    plain = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            tensors[_STATE + name] = torch.from_numpy(value)
        else:
            plain[name] = value.tolist() if hasattr(value, "tolist") else value
    plain = json.dumps(plain)
    if _is_safetensors(path):
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        _safetensors().save_file(tensors, path, metadata={"skad": plain})
    else:
        torch.save({"tensors": tensors, "skad": plain}, path)


def read_weights(path):
    """Read what `write_weights` wrote: the weights, and the attributes."""
    tensors, plain = _read(path)
    plain = _plain_values(plain, path)
    state = {
        name: np.asarray(value, dtype=object) if name == "feature_names_in_" else value
        for name, value in plain.items()
    }
    state = {k: tuple(v) if isinstance(v, list) else v for k, v in state.items()}
    state |= {
        name.removeprefix(_STATE): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(_STATE)
    }
    weights = {
        name.removeprefix(_NET): tensor
        for name, tensor in tensors.items()
        if name.startswith(_NET)
    }
    return weights, state


def _plain_values(plain, path):
    try:
        values = json.loads(plain)
    except (TypeError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds tensors, but no skad detector saved them.")
    return values


def read_tensors(path):
    """Read a state dict, as torch or safetensors saved it, without unpickling.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it can't be read as tensors by name.
    """
    tensors, _ = _read(path)
    if not isinstance(tensors, dict) or not all(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise ValueError(f"{path} holds no state dict: names of tensors were expected.")
    return tensors


def load_weights(module, weights, source):
    """Load a state dict, in the module's dtype.

    Raises
    ------
    ValueError
        If names or shapes differ, with the first of them.
    """
    own = module.state_dict()
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    wrong = [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if missing or unknown or wrong:
        raise ValueError(
            f"The weights in {source} are those of another network: "
            + "; ".join(
                [
                    *([f"missing {_some(missing)}"] if missing else []),
                    *([f"unknown {_some(unknown)}"] if unknown else []),
                    *([f"shapes differ: {_some(wrong)}"] if wrong else []),
                ]
            )
            + "."
        )
    module.load_state_dict(weights)


def _some(names):
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        if _is_safetensors(path):
            with _safetensors(".").safe_open(path, "pt") as file:
                plain = (file.metadata() or {}).get("skad")
                return {name: file.get_tensor(name) for name in file.keys()}, plain
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} can't be read as weights; it is broken or of another format "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})."
        ) from error
    if isinstance(content, dict) and content.keys() == {"tensors", "skad"}:
        return content["tensors"], content["skad"]
    return content, None


def _is_safetensors(path):
    return Path(path).suffix == ".safetensors"


def _safetensors(part="torch"):
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("*.safetensors needs: pip install safetensors.") from error
    return safetensors if part == "." else safetensors.torch
