"""Names of the formats that are not read, by suffix and by the first bytes of a file."""

import posixpath
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from ntk_select._runtime.files import what_instead
from ntk_select.errors import DataError

HEAD = 1024
"""Bytes of a file that are looked at."""


@dataclass(frozen=True)
class Format:
    """One format: its name in the singular and plural, whether it holds a picture, what to do, and the suffixes of its files."""

    one: str
    many: str
    picture: bool
    fix: str
    suffixes: frozenset[str]


def _format(one: str, suffixes: str, fix: str, *, picture: bool = True, many: str = "") -> Format:
    return Format(one, many or f"{one}s", picture, fix, frozenset(f".{suffix}" for suffix in suffixes.split()))


MOGRIFY = "with ImageMagick: magick mogrify -format jpg FILE"
HEIC = _format("HEIC photograph", "heic heif hif", f"Convert to JPEG, as {MOGRIFY}")
AVIF = _format("AVIF image", "avif avifs", f"Convert to JPEG, as {MOGRIFY}")
JXL = _format("JPEG XL image", "jxl", "Convert to PNG, as with libjxl: djxl FILE.jxl FILE.png")
RAW = _format(
    "raw photograph of a camera",
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f",
    "Develop to JPEG, as with dcraw, darktable or the camera's program",
    many="raw photographs of a camera (CR2, NEF, DNG, ...)",
)
PHOTOSHOP = _format("Photoshop file", "psd psb", "Export as PNG")
GIMP = _format("GIMP file", "xcf", "Export as PNG")
SVG = _format("SVG drawing", "svg svgz", "Draw as PNG, as with: rsvg-convert -w 512 FILE.svg -o FILE.png")
POSTSCRIPT = _format("PostScript drawing (EPS)", "eps ps ai epsf", "Draw as PNG, as with Ghostscript", many="PostScript drawings (EPS)")
DICOM = _format("DICOM image", "dcm dicom", "Convert to 8-bit PNG with the window that shows what matters, as with pydicom")
EXR = _format("OpenEXR image", "exr", "Convert to 8-bit PNG")
RADIANCE = _format("Radiance HDR image", "hdr rgbe", "Convert to 8-bit PNG")
FITS = _format("FITS image", "fits fit fts", "Convert to 8-bit PNG, as with astropy")
XR = _format("JPEG XR image", "jxr wdp hdp", "Convert to JPEG")
TO_PNG = f"Convert to PNG, as {MOGRIFY.replace('jpg', 'png')}"
TGA, ICO, ICNS, DDS, PCX, SGI, QOI, BPG, WMF, PAM, DJVU = (
    _format(f"{name} image", suffixes, TO_PNG)
    for name, suffixes in (
        ("TGA", "tga"), ("ICO", "ico cur"), ("ICNS", "icns"), ("DDS", "dds"), ("PCX", "pcx"), ("SGI", "sgi"), ("QOI", "qoi"), ("BPG", "bpg"),
        ("WMF", "wmf emf"), ("PAM", "pam"), ("DjVu", "djvu djv"),
    )
)  # fmt: skip
PDF = _format("PDF document", "pdf", "Draw its pages as PNG, as with: pdftoppm -png FILE.pdf FILE", picture=False)
VIDEO = _format(
    "video",
    "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv",
    "Save the frames that matter as JPEG, as with: ffmpeg -i FILE frame%04d.jpg",
    picture=False,
)
MEDIA = _format(
    "container of ISO media",
    "",
    "Convert a picture to JPEG, or save the frames that matter of a video, as with: ffmpeg -i FILE frame%04d.jpg",
    picture=False,
    many="containers of ISO media",
)
ARCHIVE = _format("compressed archive", "7z bz2 gz rar tar tgz xz zip zst", "Unpack it", picture=False)
ARRAY = _format(
    "file of arrays",
    "h5 hdf5 mat npy npz nii",
    "Save each image as PNG, or all as npz:FILE with images and labels",
    picture=False,
    many="files of arrays",
)
FORMATS = (
    HEIC, AVIF, JXL, RAW, PHOTOSHOP, GIMP, SVG, POSTSCRIPT, DICOM, EXR, RADIANCE, FITS, XR, TGA, ICO, ICNS, DDS, PCX, SGI, QOI,
    BPG, WMF, PAM, DJVU, PDF, VIDEO, ARCHIVE, ARRAY,
)  # fmt: skip
BY_SUFFIX = {suffix: form for form in FORMATS for suffix in form.suffixes}
BRANDS = {
    **dict.fromkeys(["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "heif", "mif1", "mif2", "msf1", "miaf"], HEIC),
    **dict.fromkeys(["avci", "avcs", "vvic", "vvis", "evbi", "evbs", "j2ki", "j2is", "jpeg", "jpgs"], HEIC),
    **dict.fromkeys(["avif", "avis", "avio", "MA1A", "MA1B"], AVIF),
    "jxl ": JXL,
    "crx ": RAW,
}
"""Formats by what a container of ISO media says that it holds."""
OF_VIDEOS = ("iso", "mp4", "avc", "hvc", "qt", "M4V", "3g", "mmp", "dash", "cmf", "f4v", "F4V", "MSNV", "XAVC", "mqt", "NDS", "dvh", "pana")
"""Beginnings of the same for videos."""
MAGIC = (
    (0, b"\xff\x0a", JXL), (0, b"\0\0\0\x0cJXL \r\n\x87\n", JXL), (8, b"CR\x02", RAW), (0, b"FUJIFILMCCD-RAW", RAW), (0, b"IIRO", RAW), (0, b"IIRS", RAW),
    (0, b"MMOR", RAW), (0, b"IIU\0", RAW), (0, b"FOVb", RAW), (0, b"8BPS", PHOTOSHOP), (0, b"gimp xcf", GIMP), (0, b"%!PS", POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", POSTSCRIPT), (128, b"DICM", DICOM), (0, b"v/1\x01", EXR), (0, b"#?RADIANCE", RADIANCE), (0, b"#?RGBE", RADIANCE),
    (0, b"SIMPLE  =", FITS), (0, b"II\xbc", XR), (0, b"\0\0\1\0", ICO), (0, b"\0\0\2\0\1\0", ICO), (0, b"icns", ICNS), (0, b"DDS ", DDS),
    (0, b"qoif", QOI), (0, b"BPG\xfb", BPG), (0, b"\xd7\xcd\xc6\x9a", WMF), (40, b" EMF", WMF), (0, b"P7\n", PAM), (0, b"AT&TFORM", DJVU), (0, b"NRRD000", ARRAY),
    (0, b"%PDF", PDF), (8, b"AVI ", VIDEO), (0, b"\x1aE\xdf\xa3", VIDEO), (0, b"FLV\1", VIDEO), (0, b"\0\0\1\xba", VIDEO),
    (0, b"PK\3\4", ARCHIVE), (0, b"\x1f\x8b", ARCHIVE), (0, b"Rar!", ARCHIVE), (0, b"7z\xbc\xaf", ARCHIVE), (0, b"\x93NUMPY", ARRAY), (0, b"\x89HDF", ARRAY),
)  # fmt: skip
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PARTS = ((273, 279), (324, 325))
"""Tags of a TIFF with the offsets and lengths of its strips, and of its tiles."""
SAMPLES = {1: "whole numbers", 2: "whole numbers with a sign", 3: "floats", 5: "complex whole numbers", 6: "complex numbers"}


def by_suffix(path: str) -> Format | None:
    """The format of a file that is not read, from its name."""
    return BY_SUFFIX.get(posixpath.splitext(path)[1].lower())


def is_foreign_picture(path: str) -> bool:
    """Whether a path ends like a picture of a format that is not read."""
    form = by_suffix(path)
    return form is not None and form.picture


def by_content(head: bytes) -> Format | None:
    """The format of a file that is not read, from its first bytes."""
    if head[4:8] == b"ftyp":
        brands = [head[place : place + 4].decode("latin1") for place in range(8, min(len(head), 64, int.from_bytes(head[:4], "big")), 4)]
        of = [BRANDS[brand] for brand in brands if brand in BRANDS]
        return AVIF if AVIF in of else of[0] if of else VIDEO if brands and brands[0].startswith(OF_VIDEOS) else MEDIA
    if b"<svg" in head:
        return SVG
    return next((form for place, magic, form in MAGIC if head.startswith(magic, place)), None) or _by_fields(head)


def _by_fields(head: bytes) -> Format | None:
    """PCX, SGI or TGA, whose files begin with no word of their own, by fields that hold one of few values."""
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
    """How many files there are of each format or suffix, the most first, as in "2 videos, 1 file .txt"."""
    found = Counter(by_suffix(path) or posixpath.splitext(path)[1].lower() for path in paths)
    words = []
    for kind, times in found.most_common():
        if isinstance(kind, Format):
            words.append(f"{times:,} {kind.one if times == 1 else kind.many}")
        else:
            words.append(f"{times:,} file{'s' if times > 1 else ''} {kind or 'without a suffix'}")
    return ", ".join(words)


def refuse_stand_in(where: str, content: bytes) -> None:
    """Refuses a pointer of Git LFS or a web page in the place of a file, by its first kilobyte.

    Raises:
      DataError: it is one.
    """
    if instead := what_instead(content[:HEAD]):
        raise DataError(f"{where} {instead}.")


def what_it_is(file: BinaryIO) -> tuple[str, str] | None:
    """What an image file is that Pillow does not read, and what to do; None where it cannot be said."""
    try:
        file.seek(0)
        head = file.read(HEAD)
    except Exception:  # an entry of a damaged archive raises its archive's own
        return None
    form = by_content(head)
    if form:
        return f"it is {'an' if form.one[0] in 'AIOS' else 'a'} {form.one}", form.fix
    if head[:4] in TIFF:
        return _of_tiff(file, head)
    if instead := what_instead(head):
        what, _, fix = instead.partition(". ")
        return f"it {what}", fix
    return None if head else ("it is empty", "Replace or delete it")


def _of_tiff(file: BinaryIO, head: bytes) -> tuple[str, str] | None:
    """Bands and type of a sound TIFF of a kind that Pillow does not have; None where it is cut or damaged."""
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
        bits, kind = max(map(int, bits)), SAMPLES.get(int(max(kinds)), "values of an unknown kind")
        width, height = int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
        parts = [(tags.get(offsets, ()), tags.get(counts, ())) for offsets, counts in PARTS]
        whole = all(offset + count <= size for part in parts for offset, count in zip(*part, strict=False))
    except Exception:  # a damaged header: of another type, or beyond the end
        return None
    if not whole:
        return None
    shown = f"it is a TIFF of {bands} band{'s' if bands > 1 else ''} of {bits}-bit {kind}, {width:,} x {height:,} pixels"
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"{shown}, compressed by method {compression}, which is not read", "Save it uncompressed, as with: tiffcp -c none FILE OUT"
    if bands in (1, 3) and bits <= 8 and kind == SAMPLES[1]:
        return f"{shown}, in a form that is not read", "Save it as PNG, as with tifffile or ImageMagick"
    return (
        shown,
        "Networks see grey or RGB of 8 bits: choose one or three bands, scale them to 0 to 255, and save them as PNG, as with tifffile or rasterio",
    )
