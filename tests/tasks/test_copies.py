"""Copies of an image are found at any size; different images are not taken for copies, however similar."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw

import ntk_select as ns
from ntk_select.tasks.copies import distinct, groups_of_copies


def scene(rng, side=96):
    """A smooth picture with edges, as photographs are."""
    small = rng.integers(0, 256, size=(7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def half(image, how=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), how))


def as_jpeg(image):
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "JPEG", quality=80)
        return np.asarray(Image.open(file))


CHANGES = {
    "the same array": lambda image: image.copy(),
    "half the size": half,
    "half the size, nearest": lambda image: half(image, Image.Resampling.NEAREST),
    "twice the size": lambda image: np.asarray(Image.fromarray(image).resize((192, 192), Image.Resampling.BICUBIC)),
    "squeezed": lambda image: np.asarray(Image.fromarray(image).resize((128, 64), Image.Resampling.LANCZOS)),
    "a JPEG of twice the size": lambda image: as_jpeg(np.asarray(Image.fromarray(image).resize((192, 192), Image.Resampling.BICUBIC))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_is_found_among_others(rng, change):
    images = [scene(rng) for _ in range(20)]
    assert groups_of_copies(images) == []
    (group,) = groups_of_copies([*images, change(images[7])])
    assert group.tolist() == [7, 20]


def test_large_copies_are_found_in_little_memory(rng):
    image = scene(rng, 64)
    large = image.repeat(80, axis=0).repeat(80, axis=1)
    assert [group.tolist() for group in groups_of_copies([image, scene(rng), large])] == [[0, 2]]
    long = rng.integers(0, 256, size=(1, 1_500_000), dtype=np.uint8)
    tracemalloc.start()
    assert [group.tolist() for group in groups_of_copies([long, long.copy(), long[:, ::-1]])] == [[0, 1]]
    assert tracemalloc.get_traced_memory()[1] < 15e6
    tracemalloc.stop()


def test_groups_hold_all_copies_of_an_image(rng):
    images = [scene(rng) for _ in range(3)]
    found = groups_of_copies([images[place] for place in (0, 1, 0, 2, 1, 0)])
    assert [group.tolist() for group in found] == [[0, 2, 5], [1, 4]]


@pytest.mark.parametrize("side", [8, 32, 300, pytest.param(1024, marks=pytest.mark.nightly)])
def test_images_of_noise_are_no_copies_at_any_size(rng, side):
    images = [rng.integers(0, 256, size=(side + place % 3, side), dtype=np.uint8) for place in range(12)]
    assert groups_of_copies(images) == []
    dark = [np.clip(20 + 2 * rng.normal(size=(side, side)), 0, 255).astype(np.uint8) for _ in range(5)]
    assert groups_of_copies(dark) == []


def test_digits_are_no_copies():
    assert groups_of_copies(ns.load_task("digits").images[:300]) == []


def printed(text, side, rng, noise=0.0):
    """A number on a grey card."""
    image = Image.new("L", (side, side), 180)
    ImageDraw.Draw(image).text((side // 3, side // 3), text, fill=20, font_size=max(side // 9, 8))
    return np.clip(np.asarray(image) + noise * rng.normal(size=(side, side)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("sides", "noise"), [((224,), 0.0), ((224,), 4.0), ((224, 112), 0.0), pytest.param((224, 160, 112, 96), 4.0, marks=pytest.mark.nightly)]
)
def test_different_numbers_on_one_card_are_no_copies(rng, noise, sides):
    texts = [f"{number:06d}" for number in rng.choice(10**6, size=20 if len(sides) != 2 else 8, replace=False)]
    assert groups_of_copies([printed(text, sides[place % len(sides)], rng, noise) for place, text in enumerate(texts)]) == []


@pytest.mark.parametrize(("sides", "number"), [((96,), 20), ((96, 144), 8), pytest.param((96, 144), 20, marks=pytest.mark.nightly)])
def test_a_small_defect_tells_images_of_a_fixed_camera_apart(rng, sides, number):
    background = scene(rng)[..., 0].astype(float)
    images = []
    for place in range(number):
        image = background + 6 * rng.normal(size=background.shape)
        if place % 2:
            row, column = rng.integers(0, 88, size=2)
            image[row : row + 8, column : column + 8] += 100
        image = np.clip(image, 0, 255).astype(np.uint8)
        images.append(np.asarray(Image.fromarray(image).resize((sides[place % len(sides)],) * 2, Image.Resampling.BICUBIC)))
    found = groups_of_copies(images)
    assert all(len(set(group % 2)) == 1 for group in found)
    assert len(sides) > 1 or found == []


def test_flat_images_of_one_grey_are_copies_and_of_others_are_not():
    images = [np.full((9, 9), grey, np.uint8) for grey in (10, 10, 30, 200)]
    assert [group.tolist() for group in groups_of_copies(images)] == [[0, 1]]


def test_grey_and_coloured_copies_are_the_same(rng):
    image = scene(rng)[..., 0]
    assert [group.tolist() for group in groups_of_copies([image, np.repeat(image[..., None], 3, -1), image[..., None]])] == [[0, 1, 2]]


@pytest.mark.parametrize("odd", [np.zeros((4, 4)), np.zeros((4, 4, 7), np.uint8), np.zeros(5, np.uint8)])
def test_among_what_are_no_8_bit_images_no_copies_are_looked_for(odd):
    assert groups_of_copies([odd, odd]) == []


def task_with_copies(rng):
    images = [scene(rng) for _ in range(6)]
    places, labels = [0, 1, 0, 2, 3, 4, 3, 3, 5, 1], [0, 0, 0, 0, 0, 1, 0, 0, 1, 1]
    return ns.Task("copies", [images[place] for place in places], labels, ("cat", "dog"))


def test_a_sample_keeps_the_first_of_each_class_and_says_what_it_left_out(rng):
    sample, remarks = distinct(ns.probe_sample(task_with_copies(rng), per_class=25))
    assert sample.indices.tolist() == [0, 1, 3, 4, 5, 8, 9]
    assert sample.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(sample.images) == 7
    assert remarks == [
        "3 of 10 images are copies of others and are left out: training image 2 is training image 0 ('cat'), "
        "training image 6 is training image 4 ('cat'), training image 7 is training image 4 ('cat'). They would count as independent images.",
        "The same image is in several classes: training image 1 ('cat') and training image 9 ('dog'). Check the labels.",
    ]


def test_copies_in_files_are_named_by_their_files(rng, tmp_path):
    one, other = scene(rng), scene(rng)
    for file, image in {"cat/1.png": one, "cat/2.png": one, "dog/3.png": one, "dog/4.png": other}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / file)
    _, remarks = distinct(ns.probe_sample(ns.load_task(tmp_path)))
    assert remarks == [
        "1 of 4 images are copies of others and are left out: cat/2.png is cat/1.png ('cat'). They would count as independent images.",
        "The same image is in several classes: cat/1.png ('cat') and dog/3.png ('dog'). Check the labels.",
    ]


def expert(seed=0):
    """A random projection of the pixels."""
    weights = np.random.default_rng(seed).normal(size=(12, 32)).astype(np.float32)

    def features(variables, x):
        return x @ variables["params"]["w"]

    return ns.Expert(
        f"e{seed}", features, {"w": weights}, features_fn=features, preprocess=lambda images: np.stack([i.ravel()[:12] / 255 for i in images])
    )


def test_a_ranking_is_that_of_the_distinct_images(rng):
    """One image per class five times is one image per class; a class five times is the class once."""
    pixels = rng.integers(0, 256, size=(10, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], 5)
    once = ns.Task("once", pixels, labels, ("a", "b"))
    often = ns.Task("often", np.repeat(pixels, 5, axis=0), np.repeat(labels, 5), ("a", "b"))
    one, other = (ns.rank([expert(0), expert(1)], task, ("lfc", "knn")) for task in (once, often))
    assert [(row.name, row.scores) for row in one] == [(row.name, row.scores) for row in other]
    assert one.contenders == other.contenders
    assert other.task["images"] == 10
    assert [warning for warning in other.task["warnings"] if "copies" in warning] == [
        "40 of 50 images are copies of others and are left out: training image 1 is training image 0 ('a'), "
        "training image 2 is training image 0 ('a'), training image 3 is training image 0 ('a') and 37 more. They would count as independent images."
    ]
    single = ns.Task("single", np.repeat(pixels[[0, 9]], 5, axis=0), labels, ("a", "b"))
    found = ns.rank([expert(0)], single, ("lfc", "knn"))[0].scores
    assert found["lfc"].low is None
    assert "one image only" in found["knn"].reason


def test_a_forecast_does_not_judge_by_copies_of_training_images(rng):
    pixels = rng.integers(0, 256, size=(10, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], 5)
    options = {"learning_rates": 0.01, "recipe": ns.Recipe(epochs=2, augment="none"), "explain": False}
    once = ns.forecast(expert(), ns.Task("t", pixels, labels, ("a", "b")), **options)
    often = ns.forecast(expert(), ns.Task("t", np.repeat(pixels, 3, axis=0), np.repeat(labels, 3), ("a", "b")), **options)
    assert (once.images, often.images) == (10, 10)
    assert once.accuracy == often.accuracy
    assert once.warnings == ()
    assert "20 of 30 images are copies of others" in often.warnings[0]
    assert often.warnings[0] in repr(often)
    assert often.to_dict()["warnings"] == list(often.warnings)
