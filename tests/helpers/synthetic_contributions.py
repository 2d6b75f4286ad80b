"""A contributions dataset of the artifact schema with random numbers, and its heads expanded by the formula itself."""

import numpy as np
import xarray as xr


def synthetic(seed=0, images=60, layers=3, heads=2, head_dim=5, embed=16, tokens=4):
    """Random contributions whose parts add up as docs/artifacts/decompositions.md says."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    ds = xr.Dataset(
        {
            "z": (("image", "layer", "head", "head_dim"), normal(images, layers, heads, head_dim) + 0.5),
            "basis": (("layer", "head", "head_dim", "embed"), normal(layers, heads, head_dim, embed)),
            "scale": (("image",), rng.uniform(0.5, 1.5, images).astype(np.float32)),
            "mean": (("image",), normal(images)),
            "bias": (("layer", "embed"), normal(layers, embed)),
            "gain": (("embed",), normal(embed)),
            "offset": (("embed",), normal(embed)),
            "mlp": (("image", "block", "embed"), normal(images, layers + 1, embed)),
        },
        {
            "image": [f"eval/{i:06d}" for i in range(images)],
            "layer": np.arange(layers),
            "head": np.arange(heads),
        },
    )
    total = expand(ds).sum(("layer", "head"))
    token = normal(images, tokens, embed)
    token[:, -1] += total.values - token.sum(1)
    ds["token"] = (("image", "token", "embed"), token)
    ds["embedding"] = (total + ds.mlp.sum("block")).transpose("image", "embed")
    return ds


def expand(ds):
    """(image, layer, head, embed), written as the formula in docs/artifacts/decompositions.md."""
    layers, heads = ds.sizes["layer"], ds.sizes["head"]
    own = xr.dot(ds.z, ds.basis, dim="head_dim")
    shift = (ds.offset - ds["mean"] * ds.scale * ds.gain) / (layers * heads)
    return (own + ds.scale * ds.bias / heads + shift).transpose("image", "layer", "head", "embed")
