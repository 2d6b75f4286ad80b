"""Methods: which class of a classifier each image of an images artifact is of, by its labels."""

import numpy as np
import xarray as xr
from jaxtyping import Int64

from optogram.errors import DataError, ModelError, nearest
from optogram.models.loading.classifiers import Classifier


def class_labels(classifier: Classifier, images: xr.Dataset) -> tuple[str, Int64[np.ndarray, " image"]]:
    """The attribute that the classes are values of, and each image's class; -1 for none of them.

    Raises ModelError if the classes have no names, DataError if the images are not labelled by their attribute.
    """
    if not classifier.classes:
        raise ModelError(
            f"the classes of {type(classifier.model).__name__} have no names, so no image can be told to be of one.\n"
            "  Give them as `classes` of the Classifier, one a logit."
        )
    attribute = classifier.attribute or str(images.attrs["class_attribute"])
    known = images["attribute"].values.astype(str).tolist()
    if attribute not in known:
        raise DataError(
            f"the classes are values of {attribute!r}, but images are labelled by {', '.join(known)}."
            f"{nearest(attribute, known)}\n  Give images labelled by {attribute!r}."
        )
    at = known.index(attribute)
    values = images["value_name"].transpose("attribute", "value").values[at].astype(str).tolist()
    place = {value: k for k, value in enumerate(classifier.classes)}
    of_value = np.array([place.get(value, -1) if value else -1 for value in values] + [-1])  # the last is for -1
    return attribute, of_value[images["label"].transpose("image", "attribute").values[:, at]]
