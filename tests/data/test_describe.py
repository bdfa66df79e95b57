"""A description counts what is there and can be written as JSON."""

import json

import numpy as np
from ntk_select.data import describe, load_task

from ntk_select.tasks.task import Task


def test_the_counts_are_those_of_the_files(folder_of):
    root = folder_of(["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png", "test/ant/1.png"])
    found = json.loads(json.dumps(describe(load_task(root))))
    assert found == {
        "name": "photos",
        "uri": str(root),
        "licence": None,
        "train": 3,
        "test": 2,
        "num_classes": 3,
        "classes": [{"name": "cat", "train": 2, "test": 1}, {"name": "dog", "train": 1, "test": 0}, {"name": "ant", "train": 0, "test": 1}],
        "per_class": {"fewest": 1, "most": 2},
        "image_size": [6, 5],
        "channels": 3,
        "warnings": [
            "Classes with test images alone, which scores never see: ant.",
            "Classes without test images: dog.",
            "Classes with one training image: dog.",
        ],
    }


def test_a_task_without_test_set_names_or_details_is_described_too():
    found = describe(Task("t", np.zeros((4, 3, 2), np.uint8), np.array([0, 1, 1, 1]), ("a", "b"), licence="MIT"))
    assert (found["test"], found["classes"][1], found["channels"], found["image_size"]) == (None, {"name": "b", "train": 3, "test": None}, 1, [3, 2])
    assert (found["uri"], found["licence"], found["per_class"], found["warnings"]) == (None, "MIT", {"fewest": 1, "most": 3}, [])
    json.dumps(found)
