"""A process of a launch; in the second process, the model fails inside a layer: ``broken.py FLAGS``."""

import os
import sys
from typing import Any

from jola.cli.main import main
from jola.system.startup import quick_imports

with quick_imports():
    import torch

    from jola.jola_model import JoLAModel


def fail(*_: Any) -> None:
    """Raise the error of a device without free memory."""
    raise torch.OutOfMemoryError("no memory for this layer")


if __name__ == "__main__":
    load = JoLAModel.from_pretrained

    def loaded(*arguments: Any, **keywords: Any) -> JoLAModel:
        """Load a model like `JoLAModel.from_pretrained`; it fails in the second process."""
        model = load(*arguments, **keywords)
        if os.environ["RANK"] == "1":
            model.base.get_submodule("model.layers.1.mlp").register_forward_hook(fail)
        return model

    JoLAModel.from_pretrained = loaded
    main(sys.argv[1:])
