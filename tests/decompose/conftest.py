"""A random demo ViT and images, shared by the tests of this folder (none of which changes them)."""

import pytest
from random_models import demo_clip, pictures


@pytest.fixture(scope="session")
def demo():
    return demo_clip()


@pytest.fixture(scope="session")
def images():
    return pictures(3)
