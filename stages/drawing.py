"""For the stages that draw by VITAL: its options, as params say them for one classifier."""

from optogram.methods.visualisation.vital import VitalOptions
from optogram.params.visualisation import Vital


def vital_options(vital: Vital, model: str, *, steps: int | None = None) -> VitalOptions:
    """The options of the classifier `model`, with so many steps or as many as `vital` says."""
    return VitalOptions(
        steps=steps or vital.steps,
        canvas=vital.canvas,
        learning_rate=vital.learning_rate,
        decay=vital.decay,
        jitter=vital.jitter,
        tv=vital.tv,
        l2=vital.l2,
        seeds=vital.seeds,
        batch=vital.batch,
        relevance=vital.relevance,
        class_relevance=vital.class_relevance,
        weights=vital.weights.get(model),
        inner_weights=vital.inner_weights.get(model),
    )
