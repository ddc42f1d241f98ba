"""What lies below a folder in a store, as `scan` sees a local one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.scan import Scan, is_image


def scan_store(url: str) -> Scan:
    """The images below `url`, by one listing; hidden names are left out, and folders are those with a file.

    Raises StoreError, and InputError where a server does not say how large an image is.
    """
    found, unsized = Scan(), list[str]()
    for path, seen in store.list_files(url).items():
        if any(name.startswith(".") for name in path.split("/")):
            continue
        if not is_image(path):
            found.others.append(path)
        elif seen.size is None:
            unsized.append(path)
        else:
            found.images[path] = seen.size, seen.mark or ""
        folder, below, _ = path.partition("/")
        if below and folder not in found.folders:
            found.folders.append(folder)
    with ThreadPoolExecutor(16) as pool:
        for path, info in zip(unsized, pool.map(lambda path: store.info(store.join(url, path)), unsized), strict=True):
            if info is None or info.size is None:
                raise InputError(f"{store.join(url, path)}: the server does not say how long it is; copy the images")
            found.images[path] = info.size, info.mark or ""
    found.folders.sort()
    return found
