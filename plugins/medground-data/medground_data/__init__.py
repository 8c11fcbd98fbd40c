"""Make a dataset of images and masks; check, describe and export it."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_commands(register: Register) -> None:
    """Offer ``medground data``."""
    from medground_data.command import data

    register("data", data)


@hookimpl
def register_readers(register: Register) -> None:
    """Offer a reader for each layout of public datasets."""
    from medground_data.readers import biomedparse, coco, datasets, folder, manifest, nnunet, sam_med2d, slake, umrg

    readers = {
        "biomedparse": biomedparse.BiomedParseReader,
        "coco": coco.CocoReader,
        "datasets": datasets.DatasetsReader,
        "folder": folder.FolderReader,
        "manifest": manifest.ManifestReader,
        "nnunet": nnunet.NnUNetReader,
        "sam_med2d": sam_med2d.SamMed2dReader,
        "slake": slake.SlakeReader,
        "umrg": umrg.UmrgReader,
    }
    for name, reader in readers.items():
        register(name, reader)


@hookimpl
def self_check() -> None:
    """Read one image and its mask from a folder."""
    import tempfile
    from pathlib import Path

    from PIL import Image

    from medground.data.source_samples import SourceSample
    from medground_data.readers import folder

    with tempfile.TemporaryDirectory() as root:
        for name in ("images", "masks"):
            Path(root, name).mkdir()
            Image.new("L", (8, 8), 255).save(Path(root, name, "a.png"))
        (sample,) = folder.FolderReader().read(Path(root))
        assert isinstance(sample, SourceSample) and sample.load_mask().all()
