"""The bundled network and images, and the slow, plain reference of S_theta."""

from __future__ import annotations

import importlib.util
import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """The first 200 training images."""
    out = []
    with tarfile.open(EXAMPLES / "data" / "cifar10-train-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg") and len(out) < 200:
                file = tar.extractfile(member)
                assert file is not None
                out.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
    return out


@pytest.fixture(scope="session")
def resnet() -> torch.nn.Module:
    """The bundled ResNet-20 with its published weights, in eval mode."""
    spec = importlib.util.spec_from_file_location("bundled_resnet20", EXAMPLES / "resnet20.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.resnet20()
    model.load_state_dict(load_file(EXAMPLES / "data" / "resnet20.safetensors"))
    return model.eval()


def layer2(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Images to the feature at layer2, [B, 32, 16, 16]."""
    with torch.no_grad():
        return model.layer2(model.layer1(torch.relu(model.bn1(model.conv1(x)))))


def slow_move(x, phi, stride, offset, fill, base_size):
    """S_theta of one map [C, h, w] by the definition, cell by cell, in float64."""
    c, h, w = x.shape
    height, width = base_size
    out = np.zeros((c, h, w))
    for i in range(h):
        for j in range(w):
            py = (2 * (stride[0] * i + offset[0]) + 1) / height - 1
            px = (2 * (stride[1] * j + offset[1]) + 1) / width - 1
            qx, qy = np.asarray(phi, np.float64) @ [px, py, 1]
            row = (((qy + 1) * height - 1) / 2 - offset[0]) / stride[0]
            column = (((qx + 1) * width - 1) / 2 - offset[1]) / stride[1]
            row = round(row) if abs(row - round(row)) <= 1e-3 else row
            column = round(column) if abs(column - round(column)) <= 1e-3 else column
            y0, x0 = math.floor(row), math.floor(column)
            for y in (y0, y0 + 1):
                for z in (x0, x0 + 1):
                    weight = (1 - abs(row - y)) * (1 - abs(column - z))
                    if 0 <= y < h and 0 <= z < w:
                        out[:, i, j] += weight * x[:, y, z]
                    else:
                        out[:, i, j] += weight * fill[:, i, j]
    return out
