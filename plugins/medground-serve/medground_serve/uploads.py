"""Uploaded files on their way into the store."""

import asyncio

from fastapi import UploadFile

from medground_serve.settings import Refusal
from medground_serve.store import ImageStore


async def put_uploads(store: ImageStore, *files: UploadFile | None) -> str:
    """Store an image, one file or the slices of a DICOM series; return its identifier.

    Of the names of files, which may be paths on the client's machine, the suffix alone is used.

    Raises:
        Refusal: 422 for a file that is missing or empty; as `ImageStore.put`.
    """
    given = [file for file in files if file is not None and file.size]
    if len(given) < len(files):
        raise Refusal(422, "the file is empty")
    if len(given) > 1:
        return await asyncio.to_thread(store.put_series, [file.file for file in given])
    return await asyncio.to_thread(store.put, given[0].file, given[0].filename or "")
