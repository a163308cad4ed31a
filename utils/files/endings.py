"""Endings of files: which hold images that can be read, and what converts others."""

from collections.abc import Iterable

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".npy")

FOREIGN = {
    **dict.fromkeys((".heic", ".heif", ".avif"), "magick mogrify -format jpg *{ending}"),
    **dict.fromkeys((".dcm", ".dicom"), "pydicom reads it: np.save of its pixel_array as .npy"),
    **dict.fromkeys((".nii", ".gz", ".mha", ".nrrd"), "SimpleITK reads it: save slices as .npy"),
    ".npz": "np.save of one of its arrays as .npy",
    ".jp2": "gdal_translate -of GTiff a.jp2 a.tif",
}
"""Endings that cannot be read, and what reads or converts them."""

JSON_OF = {
    "_via_": "VGG Image Annotator: export the annotations in COCO format",
    "FeatureCollection": "GeoJSON: gdal_rasterize draws it as a TIFF mask",
    "classTitle": "Supervisely: export the project as COCO or as segmentation masks",
    "imgHeight": 'Cityscapes polygons: "type": "CityScapes" takes the *_labelIds.png beside them',
}
"""What a JSON file of labels holds that cannot be read, and what converts it."""


def advice(endings: Iterable[str]) -> str:
    """Return what reads or converts files with these endings, or "save them as PNG, ..."."""
    known = sorted({ending.lower() for ending in endings} & FOREIGN.keys())
    lines = [f"{ending}: {FOREIGN[ending].format(ending=ending)}" for ending in known]
    return "; ".join(lines) or "save them as PNG, TIFF or JPEG"
