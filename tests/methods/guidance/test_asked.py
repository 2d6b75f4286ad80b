"""Which images are to be changed, and into what."""

import numpy as np
import pytest

from optogram.data.scenes import Scenes
from optogram.errors import DataError
from optogram.guidance.captions import class_names
from optogram.methods.guidance.asked import ask

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")


@pytest.fixture(scope="module")
def images():
    return Scenes("eval", 120, seed=0, size=32).read(0, 120)


def said(images, wrong=()):
    """A classifier that is right but for the images `wrong`, of which it says the class behind theirs."""
    label = np.array([CLASSES.index(name) for name in class_names(images)])
    label[list(wrong)] = (label[list(wrong)] + 1) % 6
    found = np.full((len(label), 6), 0.02)
    found[np.arange(len(label)), label] = 0.9 - 0.001 * np.arange(len(label))
    return found


def alone(images):
    return np.flatnonzero(images["label"].sel(attribute="count").values == 0)


def test_images_that_are_right_are_asked_to_be_another_class_all_as_often(images):
    wrong = alone(images)[:4]
    asked = ask(images, CLASSES, said(images, wrong), count=20, seed=3)
    names = np.array(class_names(images))
    assert set(asked.rows) <= {*alone(images)} - {*wrong}
    assert len({*asked.rows}) == 20
    assert [CLASSES[k] for k in asked.source] == names[asked.rows].tolist()
    assert (asked.source != asked.target).all()
    steps = np.bincount((asked.target - asked.source) % 6, minlength=6)
    assert steps.tolist() == [0, 4, 4, 4, 4, 4]
    assert ((asked.other != asked.source) & (asked.other != asked.target)).all()


def test_captions_change_in_the_class_alone(images):
    asked = ask(images, CLASSES, said(images), count=10, seed=0)
    for at, (told, changed, elsewhere) in enumerate(zip(asked.captions, asked.changed, asked.elsewhere, strict=True)):
        source, target, other = (CLASSES[each[at]] for each in (asked.source, asked.target, asked.other))
        assert source in told
        assert changed == told.replace(source, target)
        assert elsewhere == told.replace(source, other)


def test_errors_are_asked_for_their_label_the_surest_first(images):
    wrong = alone(images)[[2, 5, 9]]
    asked = ask(images, CLASSES, said(images, wrong), of="errors", count=2, seed=0)
    assert asked.rows.tolist() == wrong[:2].tolist(), "the surest have the lowest numbers"
    names = class_names(images)
    assert [CLASSES[k] for k in asked.target] == [names[row] for row in asked.rows]
    assert (asked.source == (asked.target + 1) % 6).all()
    assert [*asked.captions] == [*asked.changed], "the caption says what the image shows"


def test_a_table_of_captions_has_its_class_swapped(images, tmp_path):
    table = tmp_path / "captions.csv"
    names = class_names(images)
    rows = [f"{name},a big {of} of mine" for name, of in zip(images["image"].values, names, strict=True)]
    table.write_text("\n".join(["image,caption", *rows]) + "\n")
    asked = ask(images, CLASSES, said(images), count=3, captions=str(table), seed=0)
    for target, changed in zip(asked.target, asked.changed, strict=True):
        assert changed == f"a big {CLASSES[target]} of mine"


def test_slips_are_said(images):
    with pytest.raises(DataError, match="gets no image wrong"):
        ask(images, CLASSES, said(images), of="errors", count=3, seed=0)
    with pytest.raises(DataError, match="class 'star', which the classifier lacks"):
        ask(images, tuple(name for name in CLASSES if name != "star"), said(images), count=3, seed=0)
