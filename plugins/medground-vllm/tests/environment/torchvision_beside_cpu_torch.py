"""For the test environment of vLLM on a CPU alone: lets a torchvision built for CUDA import beside a CPU build of torch.

The package index has no CPU build of torchvision. The compiled half of the one it has cannot load there, and torchvision
then fails at import, because it registers things for operators nobody declared. Declaring two of them is all that is
missing: nothing that is used here calls them. A ``.pth`` file of the environment calls `install`, because vLLM looks at models
in processes of its own.
"""

import importlib.util
import sys

_kept = []


class Finder:
    """Declares torchvision's operators just before torchvision itself is imported, if its own library does not load."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            _declare(spec)
        return spec


def _declare(spec):
    import torch

    try:
        torch.ops.load_library(f"{spec.submodule_search_locations[0]}/_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


def install():
    """To be called before torchvision is imported; Python reads a ``.pth`` file twice where lib64 is a link to lib."""
    if not any(isinstance(each, Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, Finder())
