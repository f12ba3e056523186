"""Where labelled images come from. ``data.source`` names one of these classes."""

import inspect
import unicodedata
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor

from fmnist.data.images import Rows


class Source(ABC):
    """Labelled images of one shape."""

    class_names: list[str]
    """Name of each class, known once the source has been made: before ``prepare``."""
    image_shape: tuple[int, int, int] = (1, 28, 28)
    """Channels, height and width of the images, known once the source has been made."""
    pixels: tuple[float, float] | None = None
    """Mean and standard deviation of the training pixels, from 0 to 1, where they are published."""
    by_content: bool = False
    """Whether ``digests`` decide which images are validated on: each stays in its part when others come or go."""
    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keeps the arguments, whatever the class makes of them: they are saved in the checkpoint."""
        source = super().__new__(cls)
        source._given = (args, kwargs)
        return source

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that this source was made with, by their names."""
        args, kwargs = self._given
        signature = inspect.signature(type(self).__init__)
        named = dict([*signature.bind_partial(self, *args, **kwargs).arguments.items()][1:])
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(named.pop(parameter.name, {}))
        return named

    def describe_conversion(self) -> dict[str, str | None]:
        """Returns, as plain values, how pictures become images like those of this source.

        ``name`` is a conversion of ``fmnist.data.photos.convert``, and ``transform`` the import path of a function that
        is applied before; ``?`` for one that has no path.
        """
        return {"name": "distance", "transform": None}

    @abstractmethod
    def prepare(self) -> None:
        """Makes sure that everything is on disk. Runs on one process of each machine."""

    def load_val(self) -> tuple[Tensor | Rows, Tensor] | tuple[Tensor | Rows, Tensor, Tensor] | None:
        """Reads the validation part, as ``load`` does, and its digests if they are known.

        Returns:
            None if it is to be taken from the training part.
        """
        return None

    def digests(self, train: bool) -> Tensor | None:
        """Returns a number for the content of each image of ``load(train)``, int64 (N,); None if it is not known.

        With it copies of an image stay in one part, and test images that were trained on are found.
        """
        return None

    def paths(self, train: bool) -> list[str] | None:
        """Returns where each image of ``load(train)`` comes from; None if it is not a file."""
        return None

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor | Rows, Tensor]:
        """Reads the training part or the test part.

        Returns:
            Images, uint8 (N, C, H, W), as a tensor or as ``Rows`` of a file, and labels, int64 (N,), as indices into
            ``class_names``.
        """


def clean_name(name: str) -> str:
    """Returns a name in one Unicode form (NFC), in which names can be compared; bytes that are not text are escaped."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return unicodedata.normalize("NFC", text)
