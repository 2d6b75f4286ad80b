"""One run's artifacts, shared by the tests of this folder (none of which changes them)."""

import pytest
from planted_findings import KINDS, PER_LAYER, POOLS, photo_run, provenance, write_run
from planted_guidance import changed, write_guidance
from planted_visualisations import write_classifiers

from optogram.data.scenes import Scenes
from optogram.store.read import read
from optogram.store.write import write_dataset

CLASSIFIERS = ("resnet", "vit", "resnet_biased")
GROUPS = ("resnet", "errors")
"""Of counterfactuals, in the profile demo."""


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """The folder of a run's artifacts."""
    folder = tmp_path_factory.mktemp("artifacts")
    write_run(folder)
    write_classifiers(folder, CLASSIFIERS)
    write_guidance(folder, CLASSIFIERS)
    for group in GROUPS:
        made = provenance(f"counterfactuals/{group}")
        write_dataset(folder / "counterfactuals" / group, changed(), made, scratch=folder / ".scratch")
    return folder


@pytest.fixture(scope="session")
def scenes(artifacts):
    """(images, models) of a run on scenes, with seven attributes and everything found."""
    images = {path.name: read(path) for path in sorted((artifacts / "images").iterdir())}
    parts = {kind: read(artifacts / kind / "demo") for kind in KINDS}
    parts |= {kind: read(artifacts / "neurons/demo" / kind.removeprefix("neurons/")) for kind in PER_LAYER}
    return images, {"demo": parts | {f"embeddings/{p}": read(artifacts / "embeddings/demo" / p) for p in POOLS}}


@pytest.fixture(scope="session")
def photos():
    """(images, models) of a run on photographs: one attribute, hostile names, what they cannot give skipped."""
    return photo_run()


@pytest.fixture(scope="session")
def images():
    """A few images, for what is not about images."""
    return {"train": Scenes("train", 40, 0).read(0, 40).assign_attrs(provenance("images/train").attributes("0" * 64))}


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory):
    """Artifacts of two classifiers, by name and kind."""
    return write_classifiers(tmp_path_factory.mktemp("classifiers"), ["resnet", "vit"])
