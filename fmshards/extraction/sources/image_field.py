"""Which member of a WebDataset sample is the image, and names with dots, which WebDataset reads otherwise than people.

WebDataset's rule: a key ends at the first dot of a file's name, and the rest is the extension. So `22.00.png` and
`22.01.png` are one sample `22` with the fields `00.png` and `01.png`.
"""

from __future__ import annotations

from collections.abc import Collection

from fmshards.errors import InputError
from fmshards.extraction.sources.scan import is_image


def find_image_field(fields: Collection[str], wanted: str | None, key: str, url: str) -> str:
    """The image's extension among a sample's `fields`: `wanted`, or the only one that can be.

    A plain extension (`jpg`) goes before a dotted one (`seg.png`). Raises InputError, naming `url` and `key`.
    """
    where = f"{url}: key {key!r}"
    if wanted is not None:
        if wanted not in fields:
            raise InputError(f"{where} has no image field {wanted!r}; it has {_listed(fields)}{dot_rule(key, fields)}")
        return wanted
    images = [name for name in fields if is_image(name)]
    found = [name for name in images if "." not in name] or images
    if not found:
        raise InputError(
            f"{where} has no image field; it has {_listed(fields)}. Expected an image's extension, such as jpg or png, "
            "or name the field with image_field="
        )
    if len(found) > 1:
        raise InputError(
            f"{where} has several image fields ({_listed(found)}). Where they are images of one sample, name one with "
            f"image_field=, and the others travel as fields{dot_rule(key, found)}"
        )
    middle, _, _ = found[0].rpartition(".")
    beside = [name for name in fields if name != found[0] and name.rpartition(".")[0] == middle]
    if _is_number(middle) and beside:
        raise InputError(
            f"{where} has an image {found[0]!r} and the field {beside[0]!r} beside it{dot_rule(key, found)}"
        )
    return found[0]


def crowd(fields: Collection[str], chosen: str) -> int:
    """How many images of a sample are named by a number behind the first dot, `chosen` among them; else 0."""
    if not _is_number(chosen.rpartition(".")[0]):
        return 0
    return sum(is_image(name) and _is_number(name.rpartition(".")[0]) for name in {*fields, chosen})


def check_crowd(crowded: int, samples: int, chosen: str, key: str, url: str) -> None:
    """Refuse a shard of no more samples than the `crowded` images of one, of key `key`: numbers with a decimal point,
    not views of one sample. Raises InputError."""
    if crowded > 1 and samples <= crowded:
        raise InputError(
            f"{url}: {samples} samples, of up to {crowded} images (key {key!r}), and image_field={chosen!r} takes one "
            f"of each{dot_rule(key, [chosen])}"
        )


def dot_rule(key: str, fields: Collection[str]) -> str:
    """What to know of names with dots, as the end of a message; nothing where `fields` have none."""
    dotted = sorted(name for name in fields if "." in name)
    if not dotted:
        return ""
    base = key.rpartition("/")[2]
    renamed = f"{base}-{dotted[0].rpartition('.')[0].replace('.', '-')}.{dotted[0].rpartition('.')[2]}"
    return (
        f". WebDataset's rule: a key ends at the first dot of a file's name, so that '{base}.{dotted[0]}' belongs to "
        f"the sample {base!r}. Where each is a sample of its own, rename the files, labels too, so that the only dot "
        f"is that of the extension ('{renamed}')"
    )


def _is_number(middle: str) -> bool:
    """Whether what stands between the first dot and the extension has digits and no letter: 05, 2021.05.03, 1_2."""
    return any(c.isdigit() for c in middle) and not any(c.isalpha() for c in middle)


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
