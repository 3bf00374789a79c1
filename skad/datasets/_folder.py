"""Folders of images in the layout of MVTec AD: normal ones, kinds of anomaly, masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from skad._typing import AnyArray, BunchOrTuple, FilePath
from skad._warnings import warn
from skad.datasets._common import check_choice, image_bunch, signs

_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_GREY_16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", "La", *_GREY_16)

_DESCR = """Folder of images
================

Images read from a folder in the layout of MVTec AD: train/good, test/good, test/<kind>,
and a mask of each anomaly in ground_truth/<kind>.

:Features: H * W or 3 * H * W pixels, float32 in [0, 1]
:Target: +1 normal, -1 anomaly
:Mask: H * W pixels, where the mask's file is brighter than half of its range
"""


def load_image_folder(
    root: FilePath,
    *,
    subset: Literal["test", "train"] = "test",
    size: int | Sequence[int] | None = None,
    color: Literal["auto", "grey", "rgb"] = "auto",
    mask_suffix: str = "_mask",
    lazy: bool = False,
    return_X_y_mask: bool = False,
) -> BunchOrTuple:
    """Load images and masks from a folder in the layout of MVTec AD.

    ::

        root/train/good/000.png
        root/test/good/000.png
        root/test/scratch/000.png
        root/ground_truth/scratch/000_mask.png

    Images and masks are paired by name. Names, sizes and modes are checked before
    anything is decoded. Rows are in natural order ("9" before "10"): the good ones, then
    kind by kind. Files that are hidden or are no images (bmp, jpeg, png, tiff, webp) are
    passed over, and so are masks of good images.

    Parameters
    ----------
    root : str or path
        The folder that holds ``train``, ``test`` and ``ground_truth``.
    subset : {"test", "train"}, default="test"
        "train" reads ``train/good``; "test" all folders in ``test``.
    size : int, tuple (H, W) or None, default=None
        Resize to so many pixels: images bilinearly with antialiasing, masks to the
        nearest neighbour. An int is height and width. None keeps the files' size, which
        must be the same for all.
    color : {"auto", "grey", "rgb"}, default="auto"
        "auto" is grey if all files of the subset are, else RGB. Transparency is dropped.
    mask_suffix : str, default="_mask"
        What the name of a mask has after the name of its image, before the ending.
    lazy : bool, default=False
        If True, `data`, `images` and `mask` are :class:`skad.datasets.LazyImages`, which
        decode when asked for: a folder larger than memory can be split first.
    return_X_y_mask : bool, default=False
        Return ``(data, target, mask)`` instead of a ``Bunch``.

    Returns
    -------
    folder : Bunch
        With the attributes

        - data: ndarray of shape (n, H * W) or (n, 3 * H * W), float32 in [0, 1];
        - images: ndarray of shape (n, H, W) or (n, 3, H, W), the same values;
        - target: ndarray of shape (n,), +1 normal and -1 anomaly;
        - mask: bool ndarray of shape (n, H * W), all False in normal rows; a pixel
          counts where its file is brighter than half of the range (127 of 255);
        - kind: ndarray of shape (n,), "normal" or the name of the anomaly's folder;
        - paths: ndarray of shape (n,), the file of each image, a ``pathlib.Path``;
        - image_shape: (H, W) or (3, H, W);
        - DESCR: str.

    Raises
    ------
    FileNotFoundError
        If a folder or the mask of an anomaly is missing.
    ValueError
        If a folder has no images, a mask no image or another size than its image, sizes
        differ while ``size`` is None, a file can't be read, or a parameter is outside of
        its choices.

    Warns
    -----
    UserWarning
        Where the mask of an anomaly has no pixel: it counts as an anomaly without a mask.

    See Also
    --------
    make_textures : Images with masks, without files.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skad.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("test/good/0", "test/hole/0", "ground_truth/hole/0_mask"):
    ...         path = Path(root, name + ".png")
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("L", (6, 4), color=255).save(path)
    ...     folder = load_image_folder(root)
    >>> folder.images.shape, folder.kind.tolist(), folder.mask.sum(axis=1).tolist()
    ((2, 4, 6), ['normal', 'hole'], [0, 24])
    """
    check_choice("subset", subset, ("train", "test"))
    check_choice("color", color, ("auto", "grey", "rgb"))
    size = _check_size(size)
    kind, paths, masks = _find_files(Path(root).expanduser(), subset, mask_suffix)
    shape = _image_shape(paths, masks, size, color)
    images = LazyImages(paths, partial(_read_images, shape=shape), shape, np.float32)
    mask = LazyImages(masks, partial(_read_masks, size=shape[-2:]), shape[-2:], bool)
    if not lazy:
        images, mask = np.asarray(images), np.asarray(mask)
    target = signs([file is not None for file in masks])
    bunch = image_bunch(images, target, mask, kind=kind, paths=paths, DESCR=_DESCR)
    return (bunch.data, target, bunch.mask) if return_X_y_mask else bunch


class LazyImages:
    """Images that are decoded when asked for; until then, only their files are kept.

    What :func:`skad.datasets.load_image_folder` gives for ``lazy=True``. Choosing rows
    (by slice, indices or boolean mask, or by scikit-learn's splitters) gives
    `LazyImages` again and decodes nothing; ``images[3]`` decodes one image,
    ``np.asarray(images)`` all of them, each time anew. Estimators decode what they get.

    Parameters
    ----------
    files : ndarray of shape (n,), object
        One for each row.
    read : callable
        Gives the array of the rows of some files.
    row_shape : tuple
        Shape of a row.
    dtype : dtype
        Of the values.

    Attributes
    ----------
    shape : tuple
        Of the array, n first.
    ndim : int
        Number of its dimensions.
    dtype : numpy.dtype
        Of its values.

    See Also
    --------
    load_image_folder : Gives them.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.datasets import LazyImages
    >>> def read(files):
    ...     print("reads", len(files))
    ...     return np.zeros((len(files), 4, 6))
    >>> images = LazyImages(np.array(["a", "b", "c"]), read, (4, 6), float)
    >>> part = images[1:].reshape(2, -1)
    >>> np.asarray(part).shape
    reads 2
    (2, 24)
    """

    shape: tuple[int, ...]
    ndim: int
    dtype: np.dtype[Any]

    def __init__(
        self,
        files: AnyArray,
        read: Callable[[AnyArray], AnyArray],
        row_shape: Sequence[int],
        dtype: npt.DTypeLike,
    ):
        self._files, self._read = files, read
        self.shape = (len(files), *row_shape)
        self.ndim, self.dtype = len(self.shape), np.dtype(dtype)

    def __repr__(self) -> str:
        return f"LazyImages(shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        files = self._files[rows]
        one = not isinstance(files, np.ndarray)
        # scikit-learn indexes by (rows, ...).
        if any(axis is not Ellipsis for axis in rest) or not (one or files.ndim == 1):
            raise IndexError(
                f"LazyImages are indexed by rows only, got {key!r}: decode them first, "
                "np.asarray(images)[...]."
            )
        some = np.array([files], dtype=object) if one else files
        chosen = LazyImages(some, self._read, self.shape[1:], self.dtype)
        return np.asarray(chosen)[0] if one else chosen

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> AnyArray:
        if copy is False:
            raise ValueError("LazyImages can't be had without a copy: they are decoded.")
        array = self._read(self._files).reshape(self.shape)
        return array.astype(self.dtype if dtype is None else dtype, copy=False)

    def reshape(self, *shape: int) -> LazyImages:
        """Give rows of another shape, still lazy.

        Parameters
        ----------
        *shape : int
            The number of images or -1, then the shape of a row, or -1 for flat rows.

        Returns
        -------
        images : LazyImages
            Of the same files.

        Raises
        ------
        ValueError
            When rows would not stay rows.
        """
        n, *row = shape
        width = prod(self.shape[1:])
        row = [width] if row == [-1] else row
        if n not in (-1, len(self)) or prod(row) != width:
            raise ValueError(
                f"LazyImages of shape {self.shape} can't be reshaped to {shape}: the rows "
                "stay rows."
            )
        return LazyImages(self._files, self._read, row, self.dtype)


# --- names


def _find_files(root, subset, suffix):
    """Return kind, image and mask (None for normal images) of each row."""
    kinds = ["good"] if subset == "train" else _kinds(root, subset)
    rows = []
    for kind in kinds:
        folder = root / subset / kind
        images = _image_files(root, folder)
        if not images:
            raise ValueError(f"{folder} holds no image ({', '.join(_EXTENSIONS)}).")
        if kind == "good":
            rows += [("normal", image, None) for image in images]
        else:
            masks = _masks_of(images, root, kind, suffix)
            rows += [(kind, *pair) for pair in zip(images, masks, strict=True)]
    if subset == "test":
        _check_masked_kinds(root, kinds, suffix)
    return np.array(rows, dtype=object).T


def _kinds(root, part):
    """Name the folders of a part, "good" first."""
    kinds = [path.name for path in _entries(root, root / part) if path.is_dir()]
    if not kinds:
        raise ValueError(f"{root / part} holds no folder: neither good nor anomalies.")
    return sorted(kinds, key=lambda kind: kind != "good")


def _entries(root, folder):
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    if not folder.is_dir():
        held = sorted(path.name for path in root.iterdir())
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected are train/good, test/good, "
            f"test/<kind> and ground_truth/<kind>; {root} holds "
            f"{', '.join(held[:8]) or 'nothing'}."
        )
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(shown, key=_natural)


def _natural(path):
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _image_files(root, folder):
    return [p for p in _entries(root, folder) if p.suffix.lower() in _EXTENSIONS]


def _masks_of(images, root, kind, suffix):
    """Return the mask of each image; refuse images and masks that have no other."""
    folder = root / "ground_truth" / kind
    masks = _by_stem(_image_files(root, folder) if folder.is_dir() else [])
    wanted = {stem + suffix: image for stem, image in _by_stem(images).items()}
    missing = [stem for stem in wanted if stem not in masks]
    if missing:
        raise FileNotFoundError(
            f"{wanted[missing[0]]} has no mask: there is no {folder / missing[0]}.png. "
            f"Masks are missing for {len(missing)} of the {len(images)} images of "
            f"{kind!r}. Where their names end otherwise, set mask_suffix."
        )
    for stem, mask in masks.items():
        if stem not in wanted:
            raise ValueError(
                f"The mask {mask} has no image in {root / 'test' / kind}. The name of a "
                f"mask is that of its image and {suffix!r} (mask_suffix)."
            )
    return [masks[stem] for stem in wanted]


def _by_stem(paths):
    by_stem = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"{other} and {path.name} differ by the ending only, so that images and "
                "masks can't be paired by name."
            )
    return by_stem


def _check_masked_kinds(root, kinds, suffix):
    """Refuse masks of a kind that has no images at all."""
    if (root / "ground_truth").is_dir():
        for path in _entries(root, root / "ground_truth"):
            if path.is_dir() and path.name not in (*kinds, "good"):
                _masks_of([], root, path.name, suffix)


# --- headers


def _check_size(size):
    sides = (size, size) if isinstance(size, Integral) else size
    if sides is None:
        return None
    pair = isinstance(sides, tuple | list) and len(sides) == 2
    if not pair or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(
            f"size must be None, a positive integer or a pair (H, W) of such, got {size!r}."
        )
    return tuple(map(int, sides))


def _image_shape(paths, masks, size, color):
    """Return the shape of an image, from the headers; refuse sizes that do not fit."""
    headers = [_header(path) for path in paths]
    for path, (_, found), mask in zip(paths, headers, masks, strict=True):
        if mask is not None and _header(mask)[1] != found:
            raise ValueError(
                f"The mask {mask} has {_words(_header(mask)[1])} pixels, but its image "
                f"{path} has {_words(found)}."
            )
        if size is None and found != headers[0][1]:
            raise ValueError(
                f"{paths[0]} has {_words(headers[0][1])} pixels, but {path} has "
                f"{_words(found)}: give size=(H, W) to resize them."
            )
    all_grey = all(mode in _GREY for mode, _ in headers)
    grey = color == "grey" or (color == "auto" and all_grey)
    size = size or headers[0][1]
    return size if grey else (3, *size)


def _header(path):
    """Return a file's mode and size (H, W)."""
    with _opened(path) as image:
        # Mode "I" is 32 bits, except that older Pillow has 16-bit PNG files in it.
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise ValueError(
                f"{path} has 32-bit pixels (mode {image.mode!r}), whose range is unknown: "
                "save it with 8 or 16 bits."
            )
        return image.mode, image.size[::-1]


def _words(size):
    return " x ".join(map(str, size))


# --- pixels


@contextmanager
def _opened(path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    # SyntaxError is for a damaged PNG file.
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def _read_images(files, shape):
    images = np.empty((len(files), *shape), dtype=np.float32)
    for image, file in zip(images, files, strict=True):
        with _opened(file) as opened:
            values = _grey(opened) if len(shape) == 2 else _rgb(opened)
        image[:] = _resized(values, shape[-2:])
    return images


def _grey(image):
    if image.mode in _GREY_16:
        return np.asarray(image, dtype=np.float32) / 65535
    return np.asarray(image.convert("L"), dtype=np.float32) / 255


def _rgb(image):
    if image.mode in _GREY:
        return np.stack([_grey(image)] * 3)
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    return np.moveaxis(rgb, -1, 0) / 255


def _resized(values, size):
    from PIL import Image

    if values.shape[-2:] == size:
        return values
    planes = values.reshape(-1, *values.shape[-2:])
    # Pillow's bilinear filter widens as the image shrinks, which is the antialiasing.
    resized = [
        Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
        for plane in planes
    ]
    return np.stack(resized).reshape(*values.shape[:-2], *size).clip(0, 1)


def _read_masks(files, size):
    masks = np.zeros((len(files), *size), dtype=bool)
    for mask, file in zip(masks, files, strict=True):
        if file is not None:
            mask[:] = _read_mask(file, size)
    missed = np.array([file is not None for file in files], dtype=bool)
    missed &= ~masks.any(axis=(1, 2))
    if missed.any():
        _warn_of_empty(files[missed], size)
    return masks


def _read_mask(file, size):
    from PIL import Image

    with _opened(file) as opened:
        mask = _grey(opened) > 0.5  # from 128 of 255
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _warn_of_empty(files, size):
    names = ", ".join(map(str, files[:5]))
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    warn(
        f"No pixel is brighter than half of the range in {names}{more}, at {_words(size)} "
        "pixels: there are anomalies without a mask. Masks coded 0 and 1 must be saved as "
        "0 and 255.",
    )
