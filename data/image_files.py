"""Which files count as images: the formats that are read, and those that are recognised in order to name them and a remedy in errors."""

import posixpath
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from ntk_select._runtime.files import describe_placeholder
from ntk_select.errors import DataError

PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
"""Formats that are decoded, besides `optional_formats`. Some of Pillow's other formats start external programs (EPS) or contain no pixels (WMF)."""
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in [
        "apng",
        "bmp",
        "gif",
        "j2k",
        "jfif",
        "jp2",
        "jpe",
        "jpeg",
        "jpf",
        "jpg",
        "jpx",
        "mpo",
        "pbm",
        "pgm",
        "png",
        "pnm",
        "ppm",
        "tif",
        "tiff",
        "webp",
    ]
)
"""Suffixes of files that are read as images, besides those of `optional_formats`."""
HEAD = 1024
"""Bytes of a file that are inspected."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
      one, many: singular and plural name.
      fix: remedy for such a file, as it follows "Try: ".
      suffixes: suffixes of its file names, in lower case with the dot.
      magic: pairs (offset, bytes) that identify it.
      brands: brands in the `ftyp` box of an ISO media container that identify it.
      picture: whether it is an image format.
      pillow: Pillow's name of the format if an optional reader decodes it, else "".
    """

    one: str
    many: str
    fix: str
    suffixes: frozenset[str]
    magic: tuple[tuple[int, bytes], ...]
    brands: tuple[str, ...]
    picture: bool
    pillow: str


def _format(
    one: str, suffixes: str, fix: str, *magic: bytes | tuple[int, bytes], brands: str = "", picture: bool = True, many: str = "", pillow: str = ""
) -> Format:
    """A format; a magic number without an offset is at the beginning of the file."""
    signatures = tuple((0, each) if isinstance(each, bytes) else each for each in magic)
    endings = frozenset(f".{suffix}" for suffix in suffixes.split())
    return Format(one, many or f"{one}s", fix, endings, signatures, tuple(brands.split()), picture, pillow)


TO_JPEG, TO_PNG = (
    f"convert to {name}, as with ImageMagick: magick mogrify -format {suffix} FILE" for name, suffix in (("JPEG", "jpg"), ("PNG", "png"))
)
FRAMES = "save the frames that matter as JPEG, as with: ffmpeg -i FILE frame%04d.jpg"
FOREIGN = (
    _format(
        "HEIC photograph", "heic heif hif", f"pip install pillow-heif, or {TO_JPEG}", pillow="HEIF",
        brands="heic heix heim heis hevc hevx hevm hevs heif mif1 mif2 msf1 miaf avci avcs vvic vvis evbi evbs j2ki j2is jpeg jpgs",
    ),
    AVIF := _format(
        "AVIF image", "avif avifs", f"pip install 'pillow>=11.3', or {TO_JPEG}", pillow="AVIF", brands="avif avis avio MA1A MA1B"
    ),
    _format("JPEG XL image", "jxl", "convert to PNG, as with libjxl: djxl FILE.jxl FILE.png", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", brands="jxl"),
    RAW := _format(
        "raw photograph of a camera", "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f",
        "develop to JPEG, as with dcraw, darktable or the camera's program",
        (8, b"CR\x02"), b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb",
        brands="crx", many="raw photographs of a camera (CR2, NEF, DNG, ...)",
    ),
    _format("Photoshop file", "psd psb", "export as PNG", b"8BPS"),
    _format("GIMP file", "xcf", "export as PNG", b"gimp xcf"),
    SVG := _format("SVG drawing", "svg svgz", "render as PNG, as with: rsvg-convert -w 512 FILE.svg -o FILE.png"),
    _format(
        "PostScript drawing (EPS)", "eps ps ai epsf", "render as PNG, as with Ghostscript", b"%!PS", b"\xc5\xd0\xd3\xc6", many="PostScript drawings (EPS)"
    ),
    _format("DICOM image", "dcm dicom", "convert to 8-bit PNG with the window that shows what matters, as with pydicom", (128, b"DICM")),
    _format("OpenEXR image", "exr", "convert to 8-bit PNG", b"v/1\x01"),
    _format("Radiance HDR image", "hdr rgbe", "convert to 8-bit PNG", b"#?RADIANCE", b"#?RGBE"),
    _format("FITS image", "fits fit fts", "convert to 8-bit PNG, as with astropy", b"SIMPLE  ="),
    _format("JPEG XR image", "jxr wdp hdp", "convert to JPEG", b"II\xbc"),
    TGA := _format("TGA image", "tga", TO_PNG),
    _format("ICO image", "ico cur", TO_PNG, b"\0\0\1\0", b"\0\0\2\0\1\0"),
    _format("ICNS image", "icns", TO_PNG, b"icns"),
    _format("DDS image", "dds", TO_PNG, b"DDS "),
    PCX := _format("PCX image", "pcx", TO_PNG),
    SGI := _format("SGI image", "sgi", TO_PNG),
    _format("QOI image", "qoi", TO_PNG, b"qoif"),
    _format("BPG image", "bpg", TO_PNG, b"BPG\xfb"),
    _format("WMF image", "wmf emf", TO_PNG, b"\xd7\xcd\xc6\x9a", (40, b" EMF")),
    _format("PAM image", "pam", TO_PNG, b"P7\n"),
    _format("DjVu image", "djvu djv", TO_PNG, b"AT&TFORM"),
    _format("PDF document", "pdf", "render its pages as PNG, as with: pdftoppm -png FILE.pdf FILE", b"%PDF", picture=False),
    VIDEO := _format(
        "video", "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv", FRAMES,
        (8, b"AVI "), b"\x1aE\xdf\xa3", b"FLV\1", b"\0\0\1\xba", picture=False,
    ),
    _format(
        "compressed archive", "7z bz2 gz rar tar tgz xz zip zst", "unpack it", b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", picture=False
    ),
    _format(
        "file of arrays", "h5 hdf5 mat npy npz nii", "save each image as PNG, or all as npz:FILE with images and labels",
        b"NRRD000", b"\x93NUMPY", b"\x89HDF", picture=False, many="files of arrays",
    ),
)  # fmt: skip
"""Formats that are recognised, and not decoded unless `optional_formats` has them."""
MEDIA = _format("ISO media container", "", f"if it is a picture, convert it to JPEG; if it is a video, {FRAMES}", picture=False)
"""A container whose brands are of no known format."""
VIDEO_BRANDS = ("iso", "mp4", "avc", "hvc", "qt", "M4V", "3g", "mmp", "dash", "cmf", "f4v", "F4V", "MSNV", "XAVC", "mqt", "NDS", "dvh", "pana")
"""Prefixes of the brands of videos."""
BY_SUFFIX = {suffix: form for form in FOREIGN for suffix in form.suffixes}
BY_BRAND = {f"{brand:<4}": form for form in FOREIGN for brand in form.brands}
MAGIC = tuple((offset, magic, form) for form in FOREIGN for offset, magic in form.magic)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PARTS = ((273, 279), (324, 325))
"""TIFF tags of the offsets and byte counts of strips, and of tiles."""
SAMPLES = {1: "integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex numbers"}


@cache
def optional_formats() -> tuple[str, ...]:
    """Pillow's names of the formats whose readers are installed, which it registers: AVIF (Pillow 11.3 or later), HEIF (pillow-heif)."""
    found = []
    try:
        from PIL.AvifImagePlugin import SUPPORTED
    except ImportError:
        SUPPORTED = False
    if SUPPORTED:
        found.append("AVIF")
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return tuple(found)
    register_heif_opener()
    return (*found, "HEIF")


def is_image(path: str) -> bool:
    """Whether a path has the suffix of a format that `decode_image` reads."""
    suffix = posixpath.splitext(path)[1].lower()
    return suffix in SUFFIXES or (suffix in BY_SUFFIX and _is_decoded(BY_SUFFIX[suffix]))


def _is_decoded(form: Format) -> bool:
    return bool(form.pillow) and form.pillow in optional_formats()


def by_suffix(path: str) -> Format | None:
    """The format of a file by its suffix; None if it is decoded or unknown."""
    form = BY_SUFFIX.get(posixpath.splitext(path)[1].lower())
    return None if form is None or _is_decoded(form) else form


def is_foreign_picture(path: str) -> bool:
    """Whether a path has the suffix of an image format that is not decoded."""
    form = by_suffix(path)
    return form is not None and form.picture


def by_content(head: bytes) -> Format | None:
    """The format of a file by its first bytes; None if it is decoded or unknown."""
    if head[4:8] == b"ftyp":
        brands = [head[place : place + 4].decode("latin1") for place in range(8, min(len(head), 64, int.from_bytes(head[:4], "big")), 4)]
        known = [BY_BRAND[brand] for brand in brands if brand in BY_BRAND]
        return AVIF if AVIF in known else known[0] if known else VIDEO if brands and brands[0].startswith(VIDEO_BRANDS) else MEDIA
    if b"<svg" in head:
        return SVG
    return next((form for offset, magic, form in MAGIC if head.startswith(magic, offset)), None) or _by_fields(head)


def _by_fields(head: bytes) -> Format | None:
    """PCX, SGI or TGA, which have no magic number, by header fields with few valid values."""
    if len(head) < 18:
        return None
    if head[0] == 10 and head[1] in (0, 2, 3, 4, 5) and head[2] in (0, 1) and head[3] in (1, 2, 4, 8):
        return PCX
    if head[:2] == b"\x01\xda" and head[2] in (0, 1) and head[3] in (1, 2):
        return SGI
    mapped, kind, width, height, bits = head[1], head[2], *struct.unpack("<HHB", head[12:17])
    sound = kind in (1, 9) and head[7] in (15, 16, 24, 32) if mapped == 1 else mapped == 0 and kind in (2, 3, 10, 11) and not any(head[3:8])
    return TGA if sound and width and height and bits in (8, 15, 16, 24, 32) else None


def counted(paths: Iterable[str]) -> str:
    """Numbers of files per format or suffix, the most frequent first, as in "2 videos, 1 file .txt"."""
    suffixes = (posixpath.splitext(path)[1].lower() for path in paths)
    found = Counter(BY_SUFFIX.get(suffix, suffix) for suffix in suffixes)
    words = []
    for kind, times in found.most_common():
        if isinstance(kind, Format):
            words.append(f"{times:,} {kind.one if times == 1 else kind.many}")
        else:
            words.append(f"{times:,} file{'s' if times > 1 else ''} {kind or 'without a suffix'}")
    return ", ".join(words)


def reject_placeholder(where: str, content: bytes) -> None:
    """Rejects a Git LFS pointer or a web page in place of a file, by its first kilobyte.

    Raises:
      DataError: the content is a placeholder.
    """
    if placeholder := describe_placeholder(content[:HEAD]):
        raise DataError(f"{where} {placeholder}.")


def identify(file: BinaryIO) -> tuple[str, str] | None:
    """Description and remedy of a file that Pillow cannot decode; None if it is not recognised."""
    try:
        file.seek(0)
        head = file.read(HEAD)
    except Exception:  # entries of damaged archives raise many types
        return None
    form = by_content(head)
    if form:
        shown = f"it is {'an' if form.one[0] in 'AIOS' else 'a'} {form.one}"
        if _is_decoded(form):
            return f"{shown} that its reader cannot decode", f"Try: {TO_JPEG} if other programs show it; otherwise replace or delete it"
        return shown, f"Try: {form.fix}"
    if head[:4] in TIFF:
        return _describe_tiff(file, head)
    if placeholder := describe_placeholder(head):
        what, _, fix = placeholder.partition(". ")
        return f"it {what}", fix
    return None if head else ("it is empty", "Try: replace or delete it")


def _describe_tiff(file: BinaryIO, head: bytes) -> tuple[str, str] | None:
    """Bands and sample type of a valid TIFF that Pillow does not support; None for a truncated or damaged one."""
    from PIL import TiffImagePlugin

    try:
        big = head[2] == 43 or head[3] == 43
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if big else 8])
        file.seek(tags.next)
        tags.load(file)
        size = file.seek(0, 2)
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        bands = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, len(bits)))
        kinds = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        bits, kind = max(map(int, bits)), SAMPLES.get(int(max(kinds)), "values of an unknown type")
        width, height = int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
        parts = [(tags.get(offsets, ()), tags.get(counts, ())) for offsets, counts in PARTS]
        whole = all(offset + count <= size for part in parts for offset, count in zip(*part, strict=False))
    except Exception:  # damaged header: wrong types, or offsets beyond the end of the file
        return None
    if not whole:
        return None
    shown = f"it is a TIFF of {bands} band{'s' if bands > 1 else ''} of {bits}-bit {kind}, {width:,} x {height:,} pixels"
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"{shown}, compressed by method {compression}, which is not supported", "Try: save it uncompressed, as with: tiffcp -c none FILE OUT"
    if bands in (1, 3) and bits <= 8 and kind == SAMPLES[1]:
        return f"{shown}, in an unsupported layout", "Try: save it as PNG, as with tifffile or ImageMagick"
    return (
        shown,
        "Networks take 8-bit grey or RGB images. Try: choose one or three bands, scale them to 0 to 255, and save them as PNG, as with tifffile or rasterio",
    )
