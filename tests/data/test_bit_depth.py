"""Versions of the same images in 8, 10, 12, 14 and 16 bits give the same pixels, or are refused."""

import contextlib
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ntk_select._runtime.cache import Cache
from ntk_select.data import bit_depth as depth_module
from ntk_select.data import load_task
from ntk_select.data.bit_depth import DEPTHS, BitDepth, Seen, Wide, decided, wide_of
from ntk_select.data.decode import decode_image, look
from ntk_select.errors import DataError

SUFFIX = {"PNG": "png", "TIFF": "tif", "PPM": "pgm", "JPEG2000": "jp2"}


@pytest.fixture
def grey():
    """Six 8-bit images whose largest value, in the first of them, is `brightest`."""

    def make(brightest=255):
        images = np.random.default_rng(1).integers(0, brightest // 2, (6, 5, 7), dtype=np.uint8)
        images[0, 0, 0] = brightest
        return images

    return make


def of_bits(images, bits):
    """Images of 8 bits in a container of 16, on the scale of another depth."""
    return np.round(images.astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)


@pytest.fixture
def saved(folder_of, encoded):
    """saved(images, form, test=...) is the task of a folder; images are arrays or bytes."""

    def save(images, form="PNG", test=None, **options):
        files = {}
        for split, several in (("train", images), ("test", test)):
            for place, image in enumerate(() if several is None else several):
                data = image if isinstance(image, bytes) else encoded(image, form, **options)
                files[f"{split}/{'ab'[place % 2]}/{place // 2}.{SUFFIX[form]}"] = data
        return load_task(folder_of(files))

    return save


def in_order(task):
    """Training images in the order in which `saved` got them."""
    images = list(task.images)
    half = len(images) // 2
    return [image for pair in zip(images[:half], images[half:], strict=True) for image in pair]


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("brightest", [255, 140])
def test_any_depth_gives_the_pixels_of_8_bits(saved, grey, bits, form, brightest):
    images = grey(brightest)
    task = saved(list(of_bits(images, bits)), form)
    assert f"are read as {bits} bits" in task.details["warnings"][0]
    for ours, right in zip(in_order(task), images, strict=True):
        assert np.abs(ours.astype(int) - right).max() <= (1 if bits < 16 else 0)


def test_two_values_of_8_bits_in_16_are_read_as_they_are():
    assert decode_image(png(np.array([[0, 255]], np.uint16)), "x").tolist() == [[0, 255]]


def test_values_too_small_for_any_depth_are_refused_unless_all_are_black(saved):
    with pytest.raises(DataError, match=r"a/0.png: .* reach only 16, so their bit depth cannot be determined\. Try: convert the images to 8 bits"):
        saved([np.full((3, 3), value, np.uint16) for value in (16, 3, 0, 1)])
    assert decode_image(png(np.zeros((1, 2), np.uint16)), "x").tolist() == [[0, 0]]


def png(values, chunks=b""):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    data = file.getvalue()
    return io.BytesIO(data[:33] + chunks + data[33:])


def colour_png(values, channels=3):
    """An RGB or RGBA PNG of 16 bits, written by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_dark_image_gets_the_depth_of_its_task(saved, grey):
    images = grey()
    images[3] = images[3] // 60
    task = saved(list(of_bits(images, 12)))
    assert np.abs(in_order(task)[3].astype(int) - images[3]).max() <= 1


def test_test_images_get_the_depth_of_the_training_images(saved, grey):
    images, dark = of_bits(grey(), 12), of_bits(grey(20), 12)
    task = saved(list(images), test=list(dark))
    assert np.abs(task.test_images[0].astype(int) - grey(20)[0]).max() <= 1


def test_a_test_image_beyond_the_depth_is_refused_by_name(saved, grey):
    task = saved(list(of_bits(grey(), 10)), test=[of_bits(grey()[0], 12)])
    with pytest.raises(
        DataError, match=r"test/a/0.png: a grey value is 4,095; the training images have 10 bits, 0 to 1,023\. Try: convert the images to 8 bits"
    ):
        task.test_images[0]


def test_where_only_test_images_have_more_bits_they_decide(saved, grey):
    task = saved(list(grey()), test=list(of_bits(grey(), 12)))
    assert task.details["warnings"] == []
    assert np.abs(task.test_images[0].astype(int) - grey()[0]).max() <= 1


def test_images_of_8_and_of_more_bits_may_be_mixed(saved, grey):
    mixed = [image if place % 2 else of_bits(image, 12) for place, image in enumerate(grey())]
    for ours, right in zip(in_order(saved(mixed)), grey(), strict=True):
        assert np.abs(ours.astype(int) - right).max() <= 1


def test_a_16_bit_image_that_is_not_looked_at_first_is_met_later(saved, grey, monkeypatch):
    monkeypatch.setattr("ntk_select.data.bit_depth.PROBED", 1)
    images = [*grey()[:5], of_bits(grey()[0], 12)]
    task = saved(images)
    assert task.details["warnings"] == []
    assert np.abs(in_order(task)[5].astype(int) - grey()[0]).max() <= 1
    assert "are read as 12 bits, 0 to 4,095: their largest value is 4,095." in task.details["warnings"][0]


def test_a_pickled_task_keeps_the_depth(saved, grey):
    task = pickle.loads(pickle.dumps(saved(list(of_bits(grey(), 12)))))
    assert np.abs(task.images[0].astype(int) - grey()[0]).max() <= 1


def test_archives_are_read_as_folders_are(folder_of, zip_of, encoded, grey):
    files = {f"{'ab'[place % 2]}/{place}.png": encoded(image) for place, image in enumerate(of_bits(grey(), 12))}
    root = folder_of(files)
    for ours, theirs in zip(load_task(zip_of(root)).images, load_task(root).images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_many_images_of_fewer_bits_are_said():
    seen = [Seen(Wide(False), largest, f"{largest}.png") for largest in (4095, 4000, 3900, 60000)]
    found = decided(seen)
    assert found.bits == 16
    assert found.sentences[1].startswith("But 3 of 4 of these images would fit into 12 bits. If depths are mixed: convert")
    assert len(decided(seen[:3]).sentences) == 1


@pytest.mark.parametrize(
    ("largest", "declared", "bits"), [(900, 12, 12), (4095, 12, 12), (60000, 12, 16), (5, 8, 8), (900, 16, 16), (9000, None, 14)]
)
def test_a_declared_depth_is_taken_where_the_values_fit(largest, declared, bits):
    found = decided([Seen(Wide(False, declared=declared), largest, "a"), Seen(Wide(False), 1, "b")])
    assert found.bits == bits
    assert ("declare it" in found.sentences[0]) == (declared == bits)


def test_files_that_declare_different_depths_are_refused():
    seen = [Seen(Wide(False, declared=bits), 200, f"{bits}.tif") for bits in (14, 10)]
    with pytest.raises(DataError, match=r"10.tif declares 10 bits, 14.tif 14: images of one task need the same depth\. Try: convert"):
        decided(seen)


@pytest.mark.parametrize("tag", [281, 341])
def test_the_depth_that_a_tiff_declares_is_taken(saved, grey, encoded, tag):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag] = 4095
    dark = [encoded(of_bits(image, 12), "TIFF", tiffinfo=info) for image in grey(50)]
    task = saved(dark, "TIFF")
    assert task.details["warnings"][0].endswith("read as 12 bits, 0 to 4,095: their files declare it.")
    assert np.abs(in_order(task)[0].astype(int) - grey(50)[0]).max() <= 1


def test_the_significant_bits_of_a_png_are_its_depth_or_it_is_scaled(grey):
    chunk = b"sBIT" + bytes([12])
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    dark, scaled = of_bits(grey(50)[0], 12), of_bits(grey()[0], 16)
    assert np.abs(decode_image(png(dark, chunk), "x").astype(int) - grey(50)[0]).max() <= 1
    np.testing.assert_array_equal(decode_image(png(scaled, chunk), "x"), grey()[0])


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("form", ["PPM", "JPEG2000"])
def test_a_container_of_exactly_16_bits_is_decided_by_its_values(saved, grey, form, bits):
    options = {"irreversible": False} if form == "JPEG2000" else {}
    images = [np.tile(image, (8, 8)) for image in grey()]
    task = saved(list(of_bits(np.array(images), bits)), form, **options)
    assert f"are read as {bits} bits" in task.details["warnings"][0]
    for ours, right in zip(in_order(task), images, strict=True):
        assert np.abs(ours.astype(int) - right).max() <= (1 if bits < 16 else 0)


@pytest.mark.parametrize("magic", [b"P5", b"P2"])
@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_a_pgm_of_fewer_bits_is_scaled_by_its_header_and_needs_no_decision(saved, grey, bits, magic):
    images = [of_bits(image, bits) for image in grey(20)]
    body = [image.astype(">u2").tobytes() if magic == b"P5" else " ".join(map(str, image.ravel())).encode() for image in images]
    task = saved([magic + b" 7 5 %d\n" % ((1 << bits) - 1) + each for each in body], "PPM")
    assert task.details["warnings"] == []
    for ours, right in zip(in_order(task), grey(20), strict=True):
        assert np.abs(ours.astype(int) - right).max() <= 1


def test_a_plain_pgm_of_16_bits_is_decided_by_its_values(saved, grey):
    images = [b"P2 7 5 65535\n" + " ".join(map(str, of_bits(image, 12).ravel())).encode() for image in grey()]
    assert np.abs(in_order(saved(images, "PPM"))[0].astype(int) - grey()[0]).max() <= 1


def jpeg_2000_of(bits, values):
    """A lossless JPEG 2000 of 16 bits whose header, by SIZ and ihdr, declares fewer."""
    data = bytearray(codestream(values))
    place = data.index(b"\xff\x4f\xff\x51") + 42
    assert data[place] == 15
    data[place] = bits - 1
    return bytes(data)


def codestream(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG2000", irreversible=False, no_jp2=True)
    return file.getvalue()


def test_the_precision_of_a_jpeg_2000_is_read_off_its_header():
    values = np.tile(np.arange(64, dtype=np.uint16) * 1000, (64, 1))
    for bits in (9, 12, 16):
        with Image.open(io.BytesIO(jpeg_2000_of(bits, values))) as image:
            place = image.fp.tell()
            assert wide_of(image) == Wide(False, None if bits == 16 else 16)
            assert image.fp.tell() == place


def test_a_jpeg_2000_whose_header_lies_far_away_is_decided_by_its_values():
    class Far:
        format, mode, fp = "JPEG2000", "I;16", io.BytesIO(bytes(100))

    assert wide_of(Far()) == Wide(False)


def test_colours_of_fewer_bits_in_a_pixmap_of_16_are_refused(saved):
    dark = np.random.default_rng(0).integers(0, 4096, (4, 6, 5, 3))
    with pytest.raises(DataError, match=r"the values of the 16-bit colour images are below \d,\d{3}[:,] .*Try: convert the images to 8 bits"):
        saved([b"P6 5 6 65535\n" + image.astype(">u2").tobytes() for image in dark], "PPM")


@pytest.mark.parametrize(("bits", "wide"), [(8, None), (12, None), (16, Wide(True))])
def test_colours_of_a_jpeg_2000_are_of_16_bits_where_its_header_says_so(bits, wide):
    data = bytearray(codestream(np.zeros((64, 64, 3), np.uint8)))
    place = data.index(b"\xff\x4f\xff\x51") + 42
    data[place : place + 9 : 3] = bytes([bits - 1] * 3)
    with Image.open(io.BytesIO(data)) as image:
        assert wide_of(image) == wide


def test_the_colours_of_a_pixmap_of_16_bits_are_read_by_their_high_bytes(saved):
    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 5, 3))
    task = saved([b"P6 5 6 65535\n" + image.astype(">u2").tobytes() for image in values], "PPM")
    for ours, right in zip(in_order(task), values, strict=True):
        assert np.abs(ours - right / 257).max() <= 1
    twelve = b"P6 5 6 4095\n" + (values[0] >> 4).astype(">u2").tobytes()
    assert np.abs(decode_image(io.BytesIO(twelve), "x") - values[0] / 257).max() <= 1


def planar_tiff(values, order, *, photometric, packed=False, bits=16, alpha=None):
    """A TIFF whose bands lie one after the other, in strips of three rows each, by the definition of the format."""
    bands = values[..., None] if values.ndim == 2 else values
    height, width, count = bands.shape
    strips = [bands[row : row + 3, :, band].astype(f"{order}u{bits // 8}").tobytes() for band in range(count) for row in range(0, height, 3)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    starts = np.cumsum([8, *map(len, strips)])
    tags = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * count), 259: ("H", [8 if packed else 1]), 262: ("H", [photometric]),
        273: ("I", starts[:-1].tolist()), 277: ("H", [count]), 278: ("I", [3]), 279: ("I", list(map(len, strips))), 284: ("H", [2]),
    }  # fmt: skip
    if alpha is not None:
        tags[338] = ("H", [alpha])
    entries, lists, at = b"", b"", int(starts[-1]) + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers))
        entries += content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", at + len(lists))
        lists += b"" if len(content) <= 4 else content
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", starts[-1])
    return io.BytesIO(head + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + lists)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_bands_of_a_tiff_of_16_bits_may_lie_apart(order, packed, channels):
    values = np.random.default_rng(0).integers(0, 65536, (8, 5, channels))
    values[..., 3:] = 65535
    file = planar_tiff(values, order, photometric=2, packed=packed, alpha=2 if channels == 4 else None)
    assert np.abs(decode_image(file, "x") - values[..., :3] / 257).max() <= 1


def test_colours_of_fewer_bits_whose_bands_lie_apart_are_refused():
    file = planar_tiff(np.random.default_rng(0).integers(0, 4096, (8, 5, 3)), "<", photometric=2)
    with pytest.raises(DataError, match="fewer than 16 bits or are almost black"):
        decode_image(file, "x")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "photometric"), [(8, 0), (8, 1), (16, 1)])
def test_one_band_that_lies_apart_is_read_as_ever(order, bits, photometric):
    values = np.random.default_rng(0).integers(0, 1 << bits, (8, 5))
    right = values if bits == 8 else np.round(values / 257)
    ours = decode_image(planar_tiff(values, order, photometric=photometric, bits=bits), "x")
    np.testing.assert_array_equal(ours, right if photometric else 255 - right)


@pytest.mark.parametrize(("photometric", "alpha"), [(5, None), (2, 0)])
def test_bands_apart_that_cannot_be_read_are_refused_for_what_they_are(photometric, alpha):
    values = np.random.default_rng(0).integers(0, 65536, (8, 5, 4))
    with pytest.raises(DataError, match="it is a TIFF of 4 bands of 16-bit integers, 5 x 8 pixels.*save them as PNG"):
        decode_image(planar_tiff(values, "<", photometric=photometric, alpha=alpha), "x")


def test_packed_12_bit_tiffs_tell_their_depth():
    values = np.array([[0, 2048, 4095, 100]], np.uint16)
    packed = bytes([values[0, 0] >> 4, (values[0, 0] & 15) << 4 | values[0, 1] >> 8, values[0, 1] & 255])
    packed += bytes([values[0, 2] >> 4, (values[0, 2] & 15) << 4 | values[0, 3] >> 8, values[0, 3] & 255])
    tags = [
        (256, 3, 1, 4),
        (257, 3, 1, 1),
        (258, 3, 1, 12),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 3, 1, 1),
        (279, 4, 1, 6),
    ]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0\0\0\0"
    data = b"II*\0" + struct.pack("<I", 14) + packed + ifd
    np.testing.assert_array_equal(decode_image(io.BytesIO(data), "x", lambda: 16), [[0, 128, 255, 6]])


def test_where_0_is_white_the_image_is_inverted(encoded):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    data = bytearray(encoded(np.array([[0, 65535]], np.uint16), "TIFF", tiffinfo=info))
    place = data.index(struct.pack("<HHI", 262, 3, 1))
    data[place + 8] = 0
    np.testing.assert_array_equal(decode_image(io.BytesIO(data), "x"), [[255, 0]])


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_read_by_their_high_bytes(saved, channels):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 6, channels))
    values[..., 3:] = 65535
    task = saved([colour_png(image, channels) for image in values])
    assert task.details["warnings"] == ["Colour images of 16 bits are read by their high bytes, 0 to 65,535."]
    for ours, right in zip(in_order(task), values, strict=True):
        assert np.abs(ours - right[..., :3] / 257).max() <= 1


def test_colours_of_fewer_bits_in_16_are_refused(saved):
    values = np.random.default_rng(0).integers(0, 4096, (4, 5, 6, 3))
    with pytest.raises(DataError, match=r"a/0.png: the values of the 16-bit colour images are below 4,096[:,] .*Try: convert the images to 8 bits"):
        saved([colour_png(image) for image in values])
    with pytest.raises(DataError, match="fewer than 16 bits or are almost black"):
        decode_image(io.BytesIO(colour_png(values[0])), "x")


def test_a_damaged_image_decides_nothing(saved, grey):
    task = saved([*of_bits(grey(), 12), b"damaged", of_bits(grey()[0], 12)])
    assert "are read as 12 bits" in task.details["warnings"][0]


class Numbers:
    """A source of images that lie in no file."""

    def origin(self, key):
        return None


def test_values_of_16_bits_need_no_further_evidence(monkeypatch):
    monkeypatch.setattr("ntk_select.data.bit_depth.MANY", 1)
    looked = []

    def look(source, key, whole):
        looked.append(key)
        return Seen(Wide(False), 40000, str(key))

    depth = BitDepth((Numbers(), range(2000)), (Numbers(), ()), [], look)
    assert depth() == depth() == 16
    assert sorted(looked) == list(range(512))


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """The names of the images that are decoded to decide a depth. The files of a test count as old, and the cache is empty."""
    monkeypatch.setenv("NTK_SELECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ntk_select._runtime.cache.FRESH", -3600.0)
    names = []
    monkeypatch.setattr("ntk_select.data.layout.look", lambda source, key, whole: names.extend([key] * whole) or look(source, key, whole))
    return names


def test_a_decision_is_remembered_while_the_files_stay_as_they_are(saved, grey, counted, tmp_path):
    first = saved(list(of_bits(grey(), 12)), test=list(of_bits(grey(), 12)))
    assert len(counted) == 6
    again = load_task(tmp_path / "photos")
    assert len(counted) == 6
    assert first.details["warnings"] == again.details["warnings"] != []
    np.testing.assert_array_equal(first.images[0], again.images[0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_decision_is_made_anew_where_an_image_has_changed(saved, grey, counted, tmp_path, encoded, split):
    saved(list(of_bits(grey(), 12)), test=list(of_bits(grey(), 12)))
    (tmp_path / "photos" / split / "a" / "0.png").write_bytes(encoded(of_bits(grey(), 14)[0]))
    task = load_task(tmp_path / "photos")
    assert len(counted) == 12
    assert f"are read as {14 if split == 'train' else 12} bits" in task.details["warnings"][0]


def test_a_decision_over_files_that_are_young_is_not_remembered(saved, grey, counted, tmp_path, monkeypatch):
    monkeypatch.setattr("ntk_select._runtime.cache.FRESH", 3600.0)
    saved(list(of_bits(grey(), 12)))
    load_task(tmp_path / "photos")
    assert len(counted) == 12


def test_a_decision_on_colours_is_remembered_too(saved, counted, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 6, 3))
    first = saved([colour_png(image) for image in values])
    assert load_task(tmp_path / "photos").details == first.details
    assert len(counted) == 4


def test_an_entry_of_the_cache_that_is_no_decision_is_not_taken(tmp_path):
    cache = Cache(tmp_path)
    cache.put("ab", {"digest": np.zeros(3)})
    assert depth_module._cached(cache, "ab") is None


def test_how_far_a_decision_is_can_be_watched(saved, grey, monkeypatch):
    reported = []

    @contextlib.contextmanager
    def reporting(progress, what):
        yield lambda *of: reported.append((what, *of))

    monkeypatch.setattr(depth_module, "reporting", reporting)
    saved(list(of_bits(grey(), 12)))
    assert reported == [("Reading the depth of 16-bit images", 0, 6, "")]
