"""What a model is fed from a shell: files, folders, lines, a camera."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from nbcloud.errors import MissingExtra, SchemaError, UsageError
from nbcloud.inference.edge.model import EdgeModel
from nbcloud.models.signature import TEXT

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read(model: EdgeModel, path: Path) -> Any:
    """What is in a file, as ``predict`` takes it.

    Raises
    ------
    UsageError
        When it is of a kind that isn't known, or can't be read.
    MissingExtra
        When it is an image, and nothing here reads images.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} is of a kind that can't be read here.",
            f"There are: {' '.join(_READERS)}, folders, -, camera.",
        )
    try:
        return reader(model, path)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, RecursionError) as error:
        if isinstance(error, (SchemaError, UsageError)):
            raise
        raise UsageError(f"{path} is not what its name says: {str(error).splitlines()[0][:200]}.") from None


def files(folder: Path) -> list[Path]:
    """The files of a folder that can be read, in the order of their names."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS and path.is_file())
    if not found:
        raise UsageError(f"{folder} has no file that can be read.", f"There are: {' '.join(_READERS)}.")
    return found


def lines(stream: IO[str]) -> Iterator[Callable[[], Any]]:
    """For each line of JSON what reads it, so that a wrong line does not end the others."""
    for line in stream:
        if line.strip():
            yield lambda line=line: _of_json(line)  # type: ignore[misc]


def camera(model: EdgeModel) -> Iterator[Any]:
    """Pictures of the first camera, without an end.

    Raises
    ------
    MissingExtra
        When there is no OpenCV.
    UsageError
        When there is no camera.
    """
    if importlib.util.find_spec("cv2") is None:
        raise MissingExtra(
            "cv2 is needed for the camera, and is not installed.", "Type: pip install opencv-python-headless"
        )
    import cv2

    device = cv2.VideoCapture(0)
    try:
        while True:
            there, picture = device.read()
            if not there:
                raise UsageError("No camera answers.", "Look whether it is connected, and not in use.")
            yield _fitted(model, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), _resized_by_cv2)
    finally:
        device.release()


def _of_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"This is no JSON: {error}.", "One value a line: a list, or inputs by their names."
        ) from None
    if isinstance(value, dict):
        return {name: _array(each) for name, each in value.items()}
    return _array(value)


def _array(value: Any) -> Any:
    try:
        return np.asarray(value)
    except ValueError:
        raise UsageError("The lists are not of the same lengths, and make no array.") from None


def _npz(_: EdgeModel, path: Path) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays.items())


def _csv(model: EdgeModel, path: Path) -> Any:
    """A table: by its column names where it has some, else by their order."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise UsageError(f"{path} is empty.")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise UsageError(f"{path} has {len(row)} values in row {number}, and {width} in the first.")
    inputs = model.signature.inputs
    names = list(inputs[0].columns) if len(inputs) == 1 else [each.name for each in inputs]
    if all(_is_number(cell) for cell in rows[0]) and len(inputs) == 1:
        return np.array([[float(cell or "nan") for cell in row] for row in rows])
    header, body = rows[0], rows[1:]
    if len(inputs) == 1 and not names:
        return np.array([[float(cell or "nan") for cell in row] for row in body])
    columns = {}
    for name in names:
        if name not in header:
            raise SchemaError(
                f"The column {name!r} is missing.", f"{path} has: {', '.join(header)}.", column=name
            )
        columns[name] = [row[header.index(name)] for row in body]
    if len(inputs) == 1:
        return np.stack([_column(inputs[0].dtype, values) for values in columns.values()], axis=-1)
    return {each.name: _column(each.dtype, columns[each.name]).reshape(-1, 1) for each in inputs}


def _column(dtype: str, values: list[str]) -> Any:
    if dtype == TEXT:
        return np.array(values, dtype=object)
    if dtype.startswith(("int", "uint")):
        return np.array([int(value) for value in values])
    return np.array([float(value or "nan") for value in values])


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _txt(model: EdgeModel, path: Path) -> Any:
    """One text a line, where the model takes texts; else numbers."""
    golden = next(iter(model.golden_inputs.values()))
    if golden.dtype.kind not in "OU":
        return np.loadtxt(path, delimiter="," if "," in path.read_text(encoding="utf-8") else None, ndmin=2)
    found = np.array(path.read_text(encoding="utf-8").splitlines(), dtype=object)
    return found.reshape((-1,) + (1,) * (golden.ndim - 1))


def _image(model: EdgeModel, path: Path) -> Any:
    if importlib.util.find_spec("PIL") is not None:
        from PIL import Image

        with Image.open(path) as picture:
            return _fitted(model, np.asarray(picture.convert("RGB")), _resized_by_pil)
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        found = cv2.imread(str(path))
        if found is None:
            raise UsageError(f"{path} is no image.")
        return _fitted(model, cv2.cvtColor(found, cv2.COLOR_BGR2RGB), _resized_by_cv2)
    raise MissingExtra(
        f"{path} is an image, and neither PIL nor cv2 is installed, which read such.",
        "Type: pip install pillow; or give it as .npy",
    )


def _resized_by_pil(picture: Any, height: int, width: int) -> Any:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _resized_by_cv2(picture: Any, height: int, width: int) -> Any:
    import cv2

    return cv2.resize(picture, (width, height))


def _fitted(model: EdgeModel, picture: Any, resized: Callable[[Any, int, int], Any]) -> Any:
    """A picture of red, green and blue from 0 to 255 in the order and size that the model's input has.

    Nothing is scaled: what a model needs of that is in its graph, or in its preprocessing.
    """
    if model.manifest.metadata.preprocessing:
        return picture[np.newaxis]
    shape = model.signature.inputs[0].shape
    if len(model.signature.inputs) != 1 or len(shape) != 4:
        raise SchemaError(
            "The model takes no pictures.", f"It takes {', '.join(map(str, model.signature.inputs))}."
        )
    first = shape[1] in (1, 3)
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    if isinstance(height, int) and isinstance(width, int):
        picture = resized(picture, height, width)
    if shape[1 if first else 3] == 1:
        picture = (picture @ np.array([0.299, 0.587, 0.114]))[..., np.newaxis].round()
    ordered = np.moveaxis(picture, -1, 0) if first else picture
    return ordered[np.newaxis].astype(np.uint8)


_READERS: dict[str, Callable[[EdgeModel, Path], Any]] = {
    ".npy": lambda _, path: np.load(path, allow_pickle=False),
    ".npz": _npz,
    ".csv": _csv,
    ".json": lambda _, path: _of_json(path.read_text(encoding="utf-8")),
    ".txt": _txt,
    **dict.fromkeys(_IMAGES, _image),
}
