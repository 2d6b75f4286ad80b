"""Stage concepts: what the active neurons of each image name (appendix B, concept discovery in images)."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.decompose.effects import effect_norms
from optogram.errors import DataError
from optogram.methods.concepts import concept_truth, image_concepts
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write concepts/<model>."""
    paths = ("effects", "neurons", "embeddings", "images", "out", "metrics")
    sections = ("seed", "texts.pools", "texts.files", "second_order.layers", "neurons.sparsity", "neurons.permutations", "concepts")
    door = Doorway("concepts", argv, paths=paths, sections=sections)
