"""Training from shards is training on the prefix's outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fmshards
from fmshards.model import load_model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
MODEL = f"{ROOT}/examples/resnet20.py:resnet20"
WEIGHTS = f"{DATA}/resnet20.safetensors"


@pytest.mark.parametrize(
    ("rate", "filter", "tolerance"),
    [("fp32", None, 1e-5), ("fp32", "zstd", 1e-5), ("16", None, 1e-3), ("int8", None, 1e-2), ("int8", "zstd", 1e-2)],
)
def test_first_steps_equal_those_of_the_online_prefix(
    tmp_path: Path, rate: str, filter: str | None, tolerance: float
) -> None:
    fmshards.extract(
        str(DATA / "cifar10-train-000000.tar"),
        str(tmp_path / "set"),
        model=MODEL,
        weights=WEIGHTS,
        preprocess="normalize(imagenet)",
        layers={"layer2": rate},
        filter=filter,
        device="cpu",  # where the online side runs: another device rounds otherwise
    )
    images = images_by_key(DATA / "cifar10-train-000000.tar")
    losses: dict[str, list[float]] = {}
    weights: dict[str, torch.Tensor] = {}
    for way in ("shards", "online"):
        model = load_model(MODEL, WEIGHTS)
        prefix, suffix = fmshards.split(model, "layer2", torch.zeros(1, 3, 32, 32))
        optimizer = torch.optim.SGD(suffix.parameters(), lr=0.01, momentum=0.9)
        suffix.train()
        losses[way] = []
        for batch in fmshards.loader(str(tmp_path / "set"), batch_size=50, num_workers=0, seed=3):
            if way == "shards":
                x = batch["layer2"]
            else:
                x = prefix(torch.stack([images[key] for key in batch["__key__"]]))
            loss = F.cross_entropy(suffix(x), batch["cls"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[way].append(loss.item())
            if len(losses[way]) == 5:
                break
        weights[way] = model.layer3[0].conv1.weight.detach()
    assert losses["shards"] == pytest.approx(losses["online"], rel=tolerance)
    torch.testing.assert_close(weights["shards"], weights["online"], rtol=0, atol=tolerance)


def images_by_key(path: Path) -> dict[str, torch.Tensor]:
    import io
    import tarfile

    from PIL import Image
    from torchvision.transforms.v2 import functional as V

    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                x = V.to_dtype(V.to_image(image), torch.float32, scale=True)
                found[member.name[:-4]] = V.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return found
