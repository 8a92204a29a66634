"""Pictures, NIfTI volumes, DICOM files and series as arrays. Messages hold no file's name and no tag."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spaces.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom", ".ima")
LARGEST_VALUES = 2**31
"""No image may claim more values than this: a damaged or hostile header is not worth the memory."""

_TAGS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelSpacing", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "SeriesInstanceUID", "PatientID"),
    *(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue")
      for part in ("Descriptor", "Data")),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scan:
    """An image as read.

    Attributes:
        values: (channels, *spatial).
        affine: Voxel indices to millimetres (right, anterior, superior), 4 x 4; None: a picture.
        patient: Whose it is, where the file says so.
    """

    values: np.ndarray
    affine: np.ndarray | None = None
    patient: str | None = None


def is_image(path: Path) -> bool:
    """Whether the ending is one that is read here, or the folder may hold a series."""
    return path.name.lower().endswith(PICTURES + VOLUMES + DICOM) and not path.name.startswith(".")


def read_scan(path: Path, where: str) -> Scan:
    """The image in a file, or the DICOM series in a folder; `where` begins the error messages.

    Raises:
        DataError: It cannot be read.
    """
    name = path.name.lower()
    with _readable(where):
        if path.is_dir():
            return _series(path, where)
        if name.endswith(VOLUMES):
            return _nifti(path, where)
        if name.endswith(PICTURES):
            return Scan(_picture(path, where))
        return _dicom(path, where)


def patient_of(path: Path) -> str | None:
    """Whose a DICOM file, or the first of a series, is; None where it does not say, or is no such file."""
    if path.name.lower().endswith(PICTURES + VOLUMES):
        return None
    try:
        first = min(_slices(path)) if path.is_dir() else path
        return _patient(_dataset(first, tags=["PatientID"]))
    except (Exception, zlib.error):  # what is wrong with it is told when it is read
        return None


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Whatever a decoder raises or says about a damaged file becomes one line without the file's content."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{where}: the file is not there") from None
    except MemoryError:
        raise DataError(f"{where}: does not fit into memory") from None
    except (Exception, zlib.error) as error:
        raise DataError(f"{where}: damaged, or no image of this kind ({type(error).__name__})") from None


def _picture(path: Path, where: str) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as picture:
        if (n := getattr(picture, "n_frames", 1)) > 1:
            raise DataError(f"{where}: holds {n} pictures; save them one a file")
        if picture.width * picture.height > LARGEST_VALUES // 4:
            raise DataError(f"{where}: claims {picture.width} x {picture.height} pixels")
        if picture.mode in ("1", "LA"):
            picture = picture.convert("L")  # type: ignore[assignment]  # an image, if not a file's
        elif picture.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr"):
            picture = picture.convert("RGB")  # type: ignore[assignment]
        values = np.asarray(picture)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _nifti(path: Path, where: str) -> Scan:
    import nibabel

    image: Any = nibabel.load(path)
    if not 2 <= len(image.shape) <= 4 or np.prod(image.shape, dtype=float) > LARGEST_VALUES:
        raise DataError(
            f"{where}: is {' x '.join(map(str, image.shape))}; 3 axes are needed, or 4 with channels"
        )
    values = np.asanyarray(image.dataobj)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(values).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{where}: holds NaN or infinite values, or its axes have no extent")
    return Scan(np.moveaxis(values, -1, 0) if values.ndim == 4 else values[None], affine)


def _dicom(path: Path, where: str) -> Scan:
    dataset = _dataset(path)
    values = _pixels(dataset, where)
    return Scan(values, None, _patient(dataset))


def _series(folder: Path, where: str) -> Scan:
    """Slices in the order of their positions along the normal."""
    slices = [_dataset(file) for file in sorted(_slices(folder))]
    if not slices:
        raise DataError(f"{where}: the folder is empty")
    if len({str(slice_.get("SeriesInstanceUID")) for slice_ in slices}) > 1:
        raise DataError(f"{where}: holds several series; give each a folder of its own")
    cosines = np.array(slices[0].get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0)), dtype=np.float64)
    across, down = cosines[:3], cosines[3:]
    normal = np.cross(across, down)
    places = [
        np.array(
            slice_.get("ImagePositionPatient", (0, 0, slice_.get("InstanceNumber") or index)), dtype=float
        )
        for index, slice_ in enumerate(slices)
    ]
    heights = np.array([float(place @ normal) for place in places])
    order = np.argsort(heights, kind="stable")
    planes = [_pixels(slices[index], where) for index in order]
    if len({plane.shape for plane in planes}) > 1 or planes[0].ndim != 3:
        raise DataError(f"{where}: its slices differ in size")
    spacing = [float(value) for value in slices[0].get("PixelSpacing", (1, 1))]
    thickness = float(slices[0].get("SliceThickness") or 1)
    gap = float(np.median(np.diff(heights[order]))) if len(order) > 1 else thickness
    to_mm = np.eye(4)
    to_mm[:3, 0], to_mm[:3, 1] = across * spacing[1], down * spacing[0]
    to_mm[:3, 2], to_mm[:3, 3] = normal * (gap or thickness), places[order[0]]
    to_mm[:2] *= -1  # DICOM counts to the left and to the back
    return Scan(np.stack(planes, axis=-1).swapaxes(1, 2), to_mm, _patient(slices[0]))


def _slices(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]


def _dataset(path: Path, tags: list[str] = _TAGS) -> Any:
    import pydicom

    return pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels=tags is not _TAGS)


def _patient(dataset: Any) -> str | None:
    return str(dataset.get("PatientID") or "") or None


def _pixels(dataset: Any, where: str) -> np.ndarray:
    """Pixels of one file in the units of its modality: (channels, height, width)."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    frames, colour = int(dataset.get("NumberOfFrames") or 1), dataset.PhotometricInterpretation
    if frames > 1:
        raise DataError(f"{where}: holds {frames} frames; save them as a series")
    if int(dataset.Rows) * int(dataset.Columns) > LARGEST_VALUES // 4:
        raise DataError(f"{where}: claims {dataset.Rows} x {dataset.Columns} pixels")
    values = pixel_array(dataset)
    if colour == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        values = (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
    if values.ndim == 3:
        return np.moveaxis(values, -1, 0)
    values = apply_modality_lut(values, dataset)
    return (values.max() + values.min() - values if colour == "MONOCHROME1" else values)[None]
