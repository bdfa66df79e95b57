"""Paths are sorted into splits and classes, or rejected with an error message. No file is opened."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ntk_select.data.layout import natural, read_layout
from ntk_select.errors import DataError

BOTH = ["train/cat/1.png", "train/cat/2.png", "train/dog/1.jpg", "train/dog/2.jpg", "test/cat/9.png", "test/dog/9.png"]


@pytest.fixture
def layout():
    return lambda files, folders=(): read_layout("photos", files, folders)


def test_train_and_test_folders_are_kept_apart(layout):
    found = layout(BOTH)
    assert found.class_names == ("cat", "dog")
    assert found.train == [("train/cat/1.png", 0), ("train/cat/2.png", 0), ("train/dog/1.jpg", 1), ("train/dog/2.jpg", 1)]
    assert found.test == [("test/cat/9.png", 0), ("test/dog/9.png", 1)]
    assert found.warnings == []


def test_class_folders_alone_are_all_training(layout):
    found = layout(["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    assert (found.class_names, len(found.train), found.test, found.warnings) == (("cat", "dog"), 4, None, [])


@pytest.mark.parametrize("name", ["test", "Testing", "val", "valid", "Validation"])
def test_a_validation_folder_serves_as_test(layout, name):
    assert len(layout([path.replace("test/", f"{name}/") for path in BOTH]).test) == 2


def test_test_is_taken_before_validation_and_what_is_left_over_is_said(layout):
    found = layout([*BOTH, "val/cat/7.png", "masks/cat/1.png"])
    assert found.test == layout(BOTH).test
    assert found.warnings == ["Ignored, because they are next to the training folder: masks, val."]


def test_a_test_folder_of_images_without_classes_is_not_read(layout):
    found = layout([*BOTH[:4], "test/unknown1.png"])
    assert found.test is None
    assert found.warnings == ["Ignored, because they are next to the training folder: test."]


def test_training_is_train(layout):
    assert len(layout([path.replace("train/", "Training/") for path in BOTH]).train) == 4


def test_classes_may_be_called_train_and_valid(layout):
    assert layout(["car/1.png", "train/1.png"]).class_names == ("car", "train")
    assert layout(["valid/1.png", "invalid/1.png"]).class_names == ("invalid", "valid")


def test_two_folders_of_one_split_are_refused(layout):
    with pytest.raises(DataError, match="photos: the folders Train, train are one split by their names. Try: merge them, or rename one of them"):
        layout([*BOTH, "Train/cat/3.png"])
    assert layout(["Cat/1.png", "cat/1.png"]).class_names == ("Cat", "cat")


def test_folders_that_wrap_all_are_looked_through(layout):
    wrapped = layout([f"repo-main/data/{path}" for path in BOTH] + ["repo-main/README.md", "__MACOSX/repo-main/._x.png"])
    assert [path for path, _ in wrapped.train] == [f"repo-main/data/{path}" for path, _ in layout(BOTH).train]
    assert layout(["photos/cat/1.png", "photos/dog/1.png"]).class_names == ("cat", "dog")


def test_a_train_folder_alone_is_looked_into(layout):
    found = layout(BOTH[:4])
    assert (len(found.train), found.test) == (4, None)


def test_ids_and_files_follow_the_natural_order(layout):
    found = layout([f"class{i}/img{j}.png" for i in (10, 2, 1) for j in (10, 9)])
    assert found.class_names == ("class1", "class2", "class10")
    assert found.train[0] == ("class1/img9.png", 0)


@hypothesis.given(st.lists(st.from_regex(r"[a-b0-2]{0,5}", fullmatch=True), unique=True), st.randoms())
def test_the_natural_order_does_not_depend_on_the_order_given(names, random):
    shuffled = random.sample(names, len(names))
    assert sorted(names, key=natural) == sorted(shuffled, key=natural)


def test_the_natural_order_is_that_of_numbers():
    assert [f"n{i}" for i in range(101)] == sorted((f"n{i}" for i in reversed(range(101))), key=natural)


def test_a_class_of_the_test_set_alone_comes_last_and_is_said(layout):
    found = layout([*BOTH, "test/ant/1.png"])
    assert found.class_names == ("cat", "dog", "ant")
    assert ("test/ant/1.png", 2) in found.test
    assert found.warnings == ["Classes with test images only, which scores never see: ant."]


def test_classes_without_test_images_or_with_one_training_image_are_said(layout):
    assert layout([*BOTH, *(f"train/{i}/1.png" for i in range(7))]).warnings == [
        "Classes without test images: 0, 1, 2, 3, 4 and 2 more.",
        "Classes with one training image: 0, 1, 2, 3, 4 and 2 more.",
    ]


def test_accents_spelt_in_two_ways_are_one_class(layout):
    found = layout(["train/caf\u00e9/1.png", "train/tea/1.png", "test/cafe\u0301/1.png"])
    assert found.class_names == ("caf\u00e9", "tea")
    assert found.test == [("test/cafe\u0301/1.png", 0)]


def test_what_systems_leave_behind_is_ignored(layout):
    junk = [".DS_Store", "train/.DS_Store", "train/cat/Thumbs.db", "train/cat/._1.png", "train/.git/x", "__MACOSX/train/cat/1.png", "desktop.ini"]
    assert layout([*BOTH, *junk], ["train/.ipynb_checkpoints"]) == layout(BOTH)


SYSTEM_FOLDERS = [
    *("@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "@__thumb", "lost+found", "$RECYCLE.BIN", "System Volume Information", "FOUND.000"),
    *("found.012", "RECYCLER", "Recycled", "~snapshot", "TheVolumeSettingsFolder", "$Extend", "$WINDOWS.~BT", "$AVG", "LOST.DIR", "Config.Msi"),
    *("__MACOSX", ".AppleDouble", ".Trash-1000", ".Trashes", ".thumbnails", ".ipynb_checkpoints", "__pycache__", "Network Trash Folder"),
]


@pytest.mark.parametrize("where", ["", "train/", "train/cat/", "test/", "wrap/"])
def test_system_folders_are_ignored_wherever_they_are(layout, where):
    files = [f"wrap/{path}" for path in BOTH] if where == "wrap/" else BOTH
    for name in SYSTEM_FOLDERS:
        found = layout([*files, f"{where}{name}/1.png", f"{where}{name}/cat/SYNOPHOTO_THUMB_M.jpg"], [f"{where}{name}"])
        assert found == layout(files), name


def test_classes_whose_names_resemble_system_folders_are_read(layout):
    for name in ["$5", "$x$", "$", "$HOME `ls`", "found", "found.1000", "lost", "snapshot", "recycle"]:
        assert set(layout(["cat/1.png", f"{name}/1.png"]).class_names) == {"cat", name}


def test_system_files_are_ignored_without_a_warning(layout):
    for name in ["Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "._1.png", "1.png@SynoEAStream", "Icon\r", "~$1.png"]:
        assert layout([*BOTH, name, f"train/{name}", f"train/cat/{name}"]) == layout(BOTH), name


def test_files_that_are_not_images_may_lie_outside_class_folders(layout):
    assert layout([*BOTH, "README.md", "train/labels.csv"]) == layout(BOTH)


def test_files_in_class_folders_that_are_no_images_are_left_out_and_counted(layout):
    others = [*(f"train/cat/{i}.txt" for i in range(4)), "train/dog/labels.CSV", "test/dog/notes", "train/cat/clip.mp4", "train/cat/paper.pdf"]
    found = layout([*BOTH, *others])
    assert (found.class_names, found.train, found.test) == (layout(BOTH).class_names, layout(BOTH).train, layout(BOTH).test)
    (said,) = found.warnings
    assert said.startswith("Ignored in class folders, because they are not images: 4 files .txt, ")
    for words in ("1 file .csv", "1 file without a suffix", "1 video", "1 PDF document", "train/cat/0.txt", " and 3 more)."):
        assert words in said


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["notes.txt", "labels.csv"], r"class folder 'train/ant' contains no image, but 1 file .csv, 1 file .txt: .*Images end in .*\.jpg"),
        (["a.mov", "b.MP4"], r"contains no image, but 2 videos: .*ffmpeg"),
        (["a.pdf"], r"contains no image, but 1 PDF document: .*pdftoppm"),
        (["1", "2"], r"contains no image, but 2 files without a suffix"),
    ],
)
def test_a_class_folder_without_an_image_says_what_it_holds(layout, files, message):
    with pytest.raises(DataError, match=message):
        layout([*BOTH, *(f"train/ant/{name}" for name in files)])


FOREIGN = [
    ("a.HEIC", "1 HEIC photograph in"),
    ("a.heif", "1 HEIC photograph in"),
    ("a.avif", "1 AVIF image in"),
    ("a.jxl", "1 JPEG XL image in"),
    ("a.CR2", "1 raw photograph of a camera in"),
    ("a.nef", "1 raw photograph of a camera in"),
    ("a.dng", "1 raw photograph of a camera in"),
    ("a.ARW", "1 raw photograph of a camera in"),
    ("a.svg", "1 SVG drawing in"),
    ("a.psd", "1 Photoshop file in"),
    ("a.eps", "1 PostScript drawing .EPS. in"),
    ("a.dcm", "1 DICOM image in"),
]


def test_images_of_unsupported_formats_are_named(layout, readers):
    readers(avif=None, heif=None)
    for name, what in FOREIGN:
        with pytest.raises(DataError, match=rf"{what} class folder 'train/cat' cannot be read: train/cat/{name}\.") as caught:
            layout([*BOTH, f"train/cat/{name}"])
        assert "Delete" not in str(caught.value)
        with pytest.raises(DataError, match=f"images outside any class folder: train/{name}"):
            layout([*BOTH, f"train/{name}"])


@pytest.mark.parametrize("path", ["1.png", "train/1.png", "test/1.JPEG"])
def test_images_outside_class_folders_are_named(layout, path):
    with pytest.raises(DataError, match=rf"images outside any class folder: {path}. Allowed: .*Try: move or delete"):
        layout([*BOTH, path])
    with pytest.raises(DataError, match=r"images outside any class folder: 1.png"):
        layout(["1.png", *(f"wrap/{path}" for path in BOTH)])


@pytest.mark.parametrize("folder", ["train/ant", "test/ant"])
def test_an_empty_class_folder_is_named(layout, folder):
    with pytest.raises(DataError, match=rf"class folder '{folder}' is empty. Try: put images into it, or delete it"):
        layout(BOTH, [folder])
    with pytest.raises(DataError, match=rf"class folder '{folder}' is empty"):
        layout([*BOTH, f"{folder}/.DS_Store"])


def test_folders_inside_class_folders_are_refused(layout):
    with pytest.raises(DataError, match=r"class folder 'train/cat' contains folders \(train/cat/black\).*Allowed: train/CLASS/IMAGE"):
        layout([*BOTH, "train/cat/black/1.png"])


def test_no_class_folder_at_all_is_refused(layout):
    with pytest.raises(DataError, match=r"photos: there are no class folders. Allowed: train/CLASS/IMAGE"):
        layout(["README.md"])


def test_a_name_that_is_not_utf_8_is_refused(layout):
    with pytest.raises(DataError, match=r"class folder 'caf\\udce9' has a name that is not UTF-8"):
        layout(["caf\udce9/1.png", "tea/1.png"])


NAMES = st.sampled_from(["train", "test", "val", "cat", "dog", ".git", "1.png", "2.jpg", "a.txt", "Thumbs.db"])


@hypothesis.given(st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=8))
def test_any_set_of_paths_is_a_layout_without_loss_or_a_data_error(files):
    try:
        found = read_layout("photos", files, ())
    except DataError:
        return
    used = [path for path, _ in found.train + (found.test or [])]
    assert len(used) == len(set(used))
    assert set(used) <= files
    assert set(np.unique([label for _, label in found.train + (found.test or [])])) == set(range(len(found.class_names)))
