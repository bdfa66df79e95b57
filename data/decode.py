"""What pixels does an encoded image hold?"""

from typing import BinaryIO

import numpy as np

from ntk_select.errors import DataError

# Pillow knows more, but some of them start other programs (EPS) or have no pixels of their own (WMF).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    [".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)


def decode_image(file: BinaryIO, name: str) -> np.ndarray:
    """An encoded image as uint8 (h, w) if it is grey, else (h, w, 3).

    Turned upright as its EXIF orientation says. Transparent parts are put on white. Of an animation the first
    frame. 16-bit grey is divided by 257, so 0 .. 65535 becomes 0 .. 255. One-bit images become 0 and 255.
    CMYK and palettes become RGB.

    Args:
      file: an open binary file.
      name: what to call the image in an error.

    Raises:
      DataError: not an image, empty, truncated, damaged, of too many pixels (Pillow's limit) or of floats.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return _to_uint8(ImageOps.exif_transpose(image), name)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: the image is too large ({error}). Make it smaller: experts see a few hundred pixels a side.") from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged files.
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"its first bytes are not those of {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: cannot be read as an image ({reason}). Replace or delete it.") from error


def _to_uint8(image, name: str) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"{name}: grey values run from {values.min()} to {values.max()}; allowed are 8 and 16 bits, 0 to 65535. Save it as 8-bit PNG."
            )
        return ((values + 128) // 257).astype(np.uint8)
    if image.mode == "F":
        raise DataError(f"{name}: the pixels are floats, whose range is unknown. Save the image as 8-bit PNG.")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("L" if grey else "RGB"))
