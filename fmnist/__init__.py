"""Fashion-MNIST image classification with PyTorch Lightning."""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # `python -m` has the current folder first on the path here: no import that could be found there
    from typing import Any

__version__ = "0.3.0"

# Imported on first use, so that `import fmnist` and `fmnist --version` do not pay for torch.
_PUBLIC = {
    "MLP": "model.mlp",
    "ConvNet": "model.convnet",
    "ImageClassifier": "training.classifier",
    "FashionMNISTDataModule": "data.datamodule",
    "FashionMNIST": "data.sources.fashion_mnist",
    "ImageFolder": "data.sources.folder",
    "CSV": "data.sources.table",
    "Parquet": "data.sources.parquet",
    "TorchVision": "data.sources.torchvision",
    "History": "training.history",
    "report": "training.notebook",
    "load": "inference.predictor",
    "UserError": "errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
