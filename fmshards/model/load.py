"""Models by name: `torchvision:resnet50`, `timm:vit_small_patch16_224`, `package.module:factory`, `file.py:factory`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fmshards.errors import InputError, ModelError, warn
from fmshards.model.unwrap import unwrap
from fmshards.model.weights import is_file, load_weights

_PRETRAINED = ("default", "pretrained")


@dataclass(frozen=True)
class Origin:
    """Where a model came from: kept on it, so that its own preprocessing can be found.

    preprocess: the text PREPROCESS beside a factory, where there is one.
    """

    name: str
    weights: str | None
    preprocess: str | None = None


def load_model(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """The model of that name, in eval mode.

    name: `torchvision:NAME`, `timm:NAME`, `package.module:FACTORY` or `path/to/file.py:FACTORY`; a factory is called
    without arguments. weights: a .safetensors file, a weights-only .pth file, or the library's own: `DEFAULT` or
    `IMAGENET1K_V1` of torchvision, `pretrained` or a tag of timm. Without weights the model is as its library or
    factory makes it, mostly random, and a warning says so.

    Raises ModelError: unknown names (with the nearest), factories that fail, weights that do not fit; InputError for
    arguments of another kind.
    """
    if not isinstance(name, str):
        raise InputError(f"name is {name!r}; expected text such as torchvision:resnet18")
    if isinstance(weights, os.PathLike):
        weights = os.fspath(weights)
    if weights is not None and not isinstance(weights, str):
        raise InputError(f"weights is {type(weights).__name__}; expected a file's path or a name of the library's own")
    library, _, rest = name.rpartition(":") if not name.startswith(("torchvision:", "timm:")) else name.partition(":")
    if not library or not rest:
        raise ModelError(
            f"model {name!r}: expected torchvision:NAME, timm:NAME, package.module:factory or path/to/file.py:factory"
        )
    own = None if weights is None or is_file(weights) else weights
    preprocess = None
    if library == "torchvision":
        model = _torchvision(rest, own)
    elif library == "timm":
        model = _timm(rest, own)
    else:
        if own is not None:
            raise ModelError(f"weights {own!r}: no such file; a factory's weights are a .safetensors or .pth file")
        model, preprocess = _factory(library, rest)
    if weights is not None and own is None:
        load_weights(model, weights)
    if weights is None:
        warn(
            f"{name} has no weights given: it is used as it is made, which mostly means random weights; "
            "freezing those is rarely meant (give weights=)"
        )
    # Past nn.Module's bookkeeping: it is no part of the model.
    object.__setattr__(model, "_fmshards_origin", Origin(name, weights, preprocess))
    return model.eval()


def origin_of(model: nn.Module | None) -> Origin | None:
    """Where `load_model` had a model from."""
    found = getattr(model if model is None else unwrap(model), "_fmshards_origin", None)
    return found if isinstance(found, Origin) else None


def _torchvision(name: str, weights: str | None) -> nn.Module:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model {name!r}; nearest: {_nearest(name, known)}")
    chosen = None if weights is None else _torchvision_weights(name, weights)
    return _build(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen), weights)


def _torchvision_weights(name: str, weights: str) -> Any:
    from torchvision import models

    found = models.get_model_weights(name)
    if weights.lower() in _PRETRAINED:
        return found.DEFAULT
    if weights not in found.__members__:
        raise ModelError(
            f"weights {weights!r}: no such file, and torchvision:{name} has {', '.join(found.__members__) or 'none'}"
        )
    return found[weights]


def _timm(name: str, weights: str | None) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ModelError(f"timm:{name} needs the package timm: pip install timm") from None
    if ":" not in name and not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; nearest: {_nearest(name.split('.')[0], timm.list_models())}")
    full = name if weights is None or weights.lower() in _PRETRAINED else f"{name.split('.')[0]}.{weights}"
    if full != name:
        tags = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        if full not in tags:
            raise ModelError(
                f"weights {weights!r}: no such file, and timm:{name} has "
                f"{', '.join(t.split('.', 1)[1] for t in tags) or 'none'}"
            )
    return _build(f"timm:{full}", lambda: timm.create_model(full, pretrained=weights is not None), weights)


def _build(name: str, make: Any, weights: str | None) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # Libraries' notes about initialisation concern models that are to be trained from nothing.
            warnings.simplefilter("ignore")
            model = make()
    except Exception as error:
        what = f"the weights {weights!r} of {name}" if weights else name
        raise ModelError(f"{what} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error
    assert isinstance(model, nn.Module)
    return model


def _factory(place: str, factory: str) -> tuple[nn.Module, str | None]:
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    make = getattr(module, factory, None)
    if not callable(make):
        names = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise ModelError(f"{place} has no factory {factory!r}; nearest: {_nearest(factory, names)}")
    try:
        model = make()
    except Exception as error:
        raise ModelError(f"{place}:{factory}() failed: {type(error).__name__}: {str(error)[:300]}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{place}:{factory}() gave a {type(model).__name__}; expected a torch.nn.Module")
    text = getattr(module, "PREPROCESS", None)
    return model, text if isinstance(text, str) else None


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(f"the module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    # A name of its own, found again when a model is unpickled in this process.
    name = f"fmshards_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _nearest(name: str, known: Iterable[str]) -> str:
    every = list(known)
    close = difflib.get_close_matches(name, every, 4, 0.5) or [k for k in every if name and name[:4] in k][:4]
    return ", ".join(close) or "none"
