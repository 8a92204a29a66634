"""What images, labels and masks must be, checked once at the border, and their canonical form."""

from collections.abc import Sequence

import numpy as np

from spaces.errors import DataError

LARGEST = 1e6
"""No image intensity is beyond this; integers below it are exact in float32."""

N_CHANNELS = (1, 2, 3, 4)
"""What a last axis of channels may hold."""


def channels_first(images: np.ndarray, where: str, *, mask_rank: int | None, volumes: bool) -> np.ndarray:
    """Images of any MedMNIST layout as (n, channels, *spatial).

    N,H,W and N,D,H,W get a channel; N,H,W,C and N,D,H,W,C have the channels moved. Rank 4 is ambiguous
    between colour and volumes, which is decided by, in this order: masks (the same rank as the images: no
    channel axis); `volumes`; a last axis of 1 or 3 means channels, of 2 or 4 is refused, anything else
    means volumes.

    Args:
        images: As in the file.
        where: Begins the error messages.
        mask_rank: Rank of the masks that come with the images; None: labels.
        volumes: Whether rank 4 is known to be volumes.
    """
    rank = images.ndim
    if mask_rank is not None:
        if rank not in (mask_rank, mask_rank + 1) or not 3 <= mask_rank <= 4:
            raise DataError(f"{where} is {shape(images)}; images must have the shape of their masks")
        last_is_channels = rank == mask_rank + 1
    elif not 3 <= rank <= 5:
        raise DataError(
            f"{where} is {shape(images)}; images must be N x H x W, N x H x W x 3 or N x D x H x W"
        )
    elif rank == 4 and not volumes and images.shape[-1] in (2, 4):
        raise DataError(
            f"{where} is {shape(images)}, either {images.shape[-1]} channels or volumes; keep 1 or 3 "
            "channels, or give the file a name that ends in 3d.npz"
        )
    else:
        last_is_channels = rank == 5 or (rank == 4 and not volumes and images.shape[-1] in (1, 3))
    if not last_is_channels:
        return images[:, None]
    if images.shape[-1] not in N_CHANNELS:
        raise DataError(f"{where} is {shape(images)}; channels come last, and there may be 1 to 4")
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def as_pixels(images: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 where their values allow, else as float32; booleans become 0 and 255."""
    if 0 in images.shape:
        raise DataError(f"{where} is empty ({shape(images)})")
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind not in "uif":
        raise DataError(f"{where} holds {images.dtype}; images must be integers or floats")
    if images.dtype.kind == "f":
        bad = np.count_nonzero(~np.isfinite(images))
        if bad:
            raise DataError(f"{where} holds {bad} values that are NaN or infinite; replace them")
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind in "ui" and low >= 0 and high <= 255:
        return images.astype(np.uint8, copy=False)
    if low < -LARGEST or high > LARGEST:
        rule = "intensities must be between -1e6 and 1e6: scale the images"
        raise DataError(f"{where} goes from {low:g} to {high:g}; {rule}")
    return images.astype(np.float32, copy=False)


def as_labels(labels: np.ndarray, n_classes: int, where: str) -> np.ndarray:
    """Class indices as (n,) int64, from N or N x 1."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{where} is {shape(labels)}; one class per image is needed (N or N x 1)")
    _check_indices(labels, n_classes, where, "")
    return labels.astype(np.int64)


def as_label_sets(labels: np.ndarray, n_labels: int, where: str) -> np.ndarray:
    """0 or 1 for each of several labels, as (n, n_labels) uint8."""
    if labels.ndim != 2 or labels.shape[1] != n_labels:
        raise DataError(f"{where} is {shape(labels)}; a 0 or 1 for each of {n_labels} labels is needed")
    _check_indices(labels, 2, where, " (each of several labels is there or not)")
    return labels.astype(np.uint8)


def as_numbers(numbers: np.ndarray, where: str) -> np.ndarray:
    """Numbers to predict as (n,) float32, from N or N x 1."""
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or numbers.dtype.kind not in "uif":
        raise DataError(f"{where} is {numbers.dtype} of {shape(numbers)}; one number per image is needed")
    if bad := np.count_nonzero(~np.isfinite(numbers)):
        raise DataError(f"{where} holds {bad} numbers that are NaN or infinite; leave these cases out")
    return numbers.astype(np.float32)


def as_masks(masks: np.ndarray, n_classes: int, where: str) -> np.ndarray:
    """Masks of class indices as (n, *spatial) uint8."""
    _check_indices(masks, n_classes, where, ", not grey values")
    return masks.astype(np.uint8, copy=False)


def class_names(names: np.ndarray, where: str) -> tuple[str, ...]:
    """Names of the classes by index, from an array of strings."""
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{where} is {names.dtype} of {shape(names)}; a list of strings is needed")
    found = tuple(
        name.decode(errors="replace") if isinstance(name, bytes) else name for name in names.tolist()
    )
    if len(found) < 2 or len(set(found)) < len(found) or len(found) > 256:
        raise DataError(f"{where} is {', '.join(found)}; 2 to 256 different names are needed")
    return found


def numbered_classes(targets: Sequence[np.ndarray], where: str) -> tuple[str, ...]:
    """Names for classes that have none: "0", "1", ... up to the highest index there is.

    Without names a gap in the numbering would become a class that no image shows, so it is refused (masks
    of 0 and 255 among them).
    """
    for array in targets:
        _check_integers(array, where)
    present = np.unique(np.concatenate([np.unique(array) for array in targets]))
    if len(present) and not np.array_equal(present, np.arange(len(present))):
        shown = ", ".join(str(value) for value in present[:6]) + (", ..." if len(present) > 6 else "")
        raise DataError(
            f"{where} hold {shown}; number the classes 0, 1, 2 ... without gaps, or add class_names "
            "(numbers to predict are saved as floats)"
        )
    return tuple(str(index) for index in range(len(present)))


def shape(array: np.ndarray) -> str:
    """The shape as people write it: 546 x 28 x 28."""
    return " x ".join(str(n) for n in array.shape) or "a single number"


def _check_integers(indices: np.ndarray, where: str) -> None:
    if indices.dtype.kind not in "uib":
        raise DataError(f"{where} holds {indices.dtype}; class indices must be integers from 0")
    if indices.size == 0:
        raise DataError(f"{where} is empty")


def _check_indices(indices: np.ndarray, n_classes: int, where: str, remark: str) -> None:
    _check_integers(indices, where)
    for value in (indices.min(), indices.max()):
        if not 0 <= value < n_classes:
            rule = f"with {n_classes} classes, indices go from 0 to {n_classes - 1}"
            raise DataError(f"{where} holds {int(value)}; {rule}{remark}")
