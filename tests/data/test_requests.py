"""What is asked of a model that draws: all values, true captions, and combinations that training never saw."""

import numpy as np
import pytest

from optogram.data.requests import class_requests, scene_requests
from optogram.data.scenes import ATTRIBUTES, Scenes, held_out_combinations
from optogram.errors import DataError, ParamError


def test_every_value_is_asked_equally_often_and_each_caption_says_all():
    found = scene_requests(480, seed=3)
    for name, values in ATTRIBUTES.items():
        counts = np.bincount(found.label.sel(attribute=name), minlength=len(values))
        assert counts.tolist() == ([480, 0, 0] if name == "count" else [480 // len(values)] * len(values))
    for prompt, label in zip(found.prompt.values, found.label.to_pandas().to_dict("records"), strict=True):
        assert ATTRIBUTES["colour"][label["colour"]] in prompt
        large = any(word in prompt for word in ("large", "big"))
        assert large == (label["size"] == 1), prompt
    forbidden = held_out_combinations()
    for row in range(50):
        label = found.label[row].to_series()
        assert forbidden[label["shape"], label["colour"], label["background"]] == bool(found.held_out[row])
    assert 0.05 < float(found.held_out.mean()) < 0.16


def test_the_seed_decides():
    assert scene_requests(20, seed=1).identical(scene_requests(20, seed=1))
    assert not scene_requests(20, seed=1).identical(scene_requests(20, seed=2))
    with pytest.raises(ParamError, match="count = 0"):
        scene_requests(0, seed=1)


def test_classes_are_asked_for_in_turn_with_captions_of_their_own_images():
    images = Scenes("train", 200, 0, size=32).read(0, 200)
    found = class_requests(images, 13, seed=0)
    assert found.label.sel(attribute="shape").values.tolist() == [k % 6 for k in range(13)]
    said = {str(text): row for row, texts in enumerate(images.caption.values) for text in texts}
    for prompt, label in zip(found.prompt.values, found.label.values, strict=True):
        assert any(
            (images.label.values[row] == label).all() for row in range(200) if prompt in images.caption.values[row]
        )
        assert str(prompt) in said
    with pytest.raises(DataError, match="class 'circle' has no image"):
        class_requests(images.isel(image=images.label.sel(attribute="shape").values != 0), 5, seed=0)
    with pytest.raises(ParamError, match="count = 0"):
        class_requests(images, 0, seed=0)
