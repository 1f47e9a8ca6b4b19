"""What a model is fed from a shell: files, folders, lines, a camera."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nbcloud.errors import MissingExtra, SchemaError, UsageError
from nbcloud.inference.edge.model import EdgeModel
from nbcloud.models import tables
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
    """A table: by its column names where the table and the model have some, else by their order."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise UsageError(f"{path} is empty.")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise UsageError(f"{path} has {len(row)} values in row {number}, and {width} in the first.")
    named = tables.names_columns(rows[0])
    names = rows[0] if named else [str(place) for place in range(width)]
    columns = dict(zip(names, zip(*rows[named:])))
    if not columns:
        raise UsageError(f"{path} has names of columns, and no rows.")
    if len(model.takes) > 1:
        return {
            each.name: _column(each.dtype, each.name, columns, path).reshape(-1, 1) for each in model.takes
        }
    (one,) = model.takes
    wanted = one.columns if named and one.columns else names
    found = [_column(one.dtype, name, columns, path) for name in wanted]
    return found[0] if len(one.shape) == 1 and len(found) == 1 else np.stack(found, axis=-1)


def _column(dtype: str, name: str, columns: Mapping[str, Sequence[str]], path: Path) -> Any:
    if name not in columns:
        raise SchemaError(
            f"The column {name!r} is missing.", f"{path} has: {', '.join(columns)}.", column=name
        )
    is_whole = dtype.startswith(("int", "uint", "bool"))
    kind = "text" if dtype == TEXT else "whole number" if is_whole else "number"
    values: list[Any] = []
    for cell in columns[name]:
        try:
            values.append(_text(cell) if dtype == TEXT else _whole(cell) if is_whole else _number(cell))
        except ValueError:
            told = f"The column {name!r} has {cell!r}, which is no {kind}."
            raise SchemaError(told, "Fill or drop such rows.", column=name) from None
    return np.array(values, dtype=object if dtype == TEXT else None)


def _text(cell: str) -> str:
    if cell in tables.MISSING:
        raise ValueError
    return cell


def _whole(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        number = _number(cell)
        if not number.is_integer():
            raise
        return int(number)


def _number(cell: str) -> float:
    if cell.lower() in ("true", "false"):
        return float(cell.lower() == "true")
    return float("nan" if cell in tables.MISSING else cell)


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
