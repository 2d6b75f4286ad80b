import numpy as np
import pytest
import torch

from optogram.data.pools import pool, random_vectors, zeroshot_prompts
from optogram.data.scenes import ATTRIBUTES
from optogram.errors import DataError
from optogram.models.loading.clip_folders import build_clip
from optogram.models.text_embeddings import embed_pool, embed_zeroshot


def architecture(merges=60, context=64):
    return {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"vocab_size": 514 + merges, "context_length": context, "width": 16, "heads": 2, "layers": 1},
    }


@pytest.fixture(scope="module")
def clip():
    clip = build_clip(architecture(), seed=0)
    clip.model.eval()
    return clip


def test_pool_embeddings_follow_the_schema(clip):
    texts = pool("descriptions")
    embedded = embed_pool(clip, texts, batch=100)
    assert set(embedded.variables) == {"text", "attribute", "value", "embedding"}
    assert embedded.embedding.dims == ("text", "embed")
    assert embedded.embedding.dtype == np.float32
    assert np.abs(np.linalg.norm(embedded.embedding.values, axis=1) - 1).max() < 1e-6
    assert embedded.drop_vars("embedding").identical(texts)
    with torch.no_grad():
        tokens = clip.tokenize([str(texts.text.values[123])])
        literal = clip.model.encode_text(tokens, normalize=True).numpy()[0]
    assert np.abs(embedded.embedding.values[123] - literal).max() < 1e-6


def test_random_pool_becomes_random_vectors(clip):
    embedded = embed_pool(clip, pool("random", count=30), seed=5)
    assert np.array_equal(embedded.embedding.values, random_vectors(30, 12, seed=5))
    assert embedded.text.values[29] == "random 0030"


def test_zeroshot_classifier_is_the_normalised_mean_over_prompts(clip):
    prompts = zeroshot_prompts()
    table = embed_zeroshot(clip, prompts)
    assert table.classifier.dims == ("class", "embed")
    assert table.classifier.dtype == np.float32
    assert table["class"].values.tolist() == [f"{a}:{v}" for a, values in ATTRIBUTES.items() for v in values]
    assert [f"{a}:{v}" for a, v in zip(table.attribute.values, table.value.values, strict=True)] == list(
        table["class"].values
    )
    for k in (0, 9, len(prompts) - 1):
        with torch.no_grad():
            each = clip.model.encode_text(clip.tokenize(prompts[k][2]), normalize=True).numpy().astype(float)
        mean = each.mean(0)
        assert np.abs(table.classifier.values[k] - mean / np.linalg.norm(mean)).max() < 1e-6


def test_text_that_is_too_long_is_named():
    clip = build_clip(architecture(context=12), seed=0)
    with pytest.raises(DataError, match=r"text 'a photo of .* tokens, but this model reads at most 12"):
        embed_pool(clip, pool("descriptions"))


def test_built_in_pools_fit_the_demo_model():
    clip = build_clip(architecture(merges=4000, context=32), seed=0)
    for name in ("descriptions", "words", "class"):
        clip.tokenize(pool(name, count=3498).text.values.tolist())


def test_weights_that_are_not_finite(clip):
    broken = build_clip(architecture(), seed=0)
    with torch.no_grad():
        broken.model.text_projection.fill_(float("nan"))
    with pytest.raises(DataError, match="no finite embedding"):
        embed_pool(broken, pool("descriptions"))


def test_no_classes(clip):
    with pytest.raises(DataError, match="at least one class"):
        embed_zeroshot(clip, [])
    with pytest.raises(DataError, match="a prompt for each"):
        embed_zeroshot(clip, [("shape", "circle", [])])
