"""Methods: arrays and models in, findings out. Lazy exports (PEP 562)."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram.methods.ablation import ablate_components, ablate_heads, ablate_layers, mean_ablate
    from optogram.methods.adversarial import (
        attack,
        candidates,
        fooled,
        mined_phrases,
        phrase_scores,
        strongest_neurons,
        synonyms,
    )
    from optogram.methods.album import vital_album
    from optogram.methods.baselines import baseline
    from optogram.methods.canvases import magnitude_spectrum
    from optogram.methods.concepts import concept_precision, image_concepts, true_concepts
    from optogram.methods.describe import describe
    from optogram.methods.groups import separated
    from optogram.methods.joint import joint
    from optogram.methods.judges import Judges
    from optogram.methods.neuron_labels import named_values, shared_values, value_agreement
    from optogram.methods.neuron_maps import neuron_heatmaps
    from optogram.methods.neurons import (
        ablate_effects,
        effect_means,
        largest_effects,
        rank_one,
        replace_effects,
        through_heads,
    )
    from optogram.methods.pools import distinct_texts, prepare_texts
    from optogram.methods.prototypes import find_prototypes
    from optogram.methods.reference_scores import reference_scores
    from optogram.methods.relevance import Attributor, Start
    from optogram.methods.roles import agreement, measured_roles, named_roles, neighbours, top_images
    from optogram.methods.sort_matching import (
        matching_loss,
        reference_prototype,
        sort_match_loss,
        sort_match_prototype,
    )
    from optogram.methods.sparse import omp, omp_sizes, recompose
    from optogram.methods.spurious import debias, spurious_heads
    from optogram.methods.targets import find_targets
    from optogram.methods.textspan import reconstruct, textspan, textspan_heads
    from optogram.methods.visual_scores import visual_scores
    from optogram.methods.vital import vital

__all__ = [
    "Attributor",
    "Judges",
    "Start",
    "ablate_components",
    "ablate_effects",
    "ablate_heads",
    "ablate_layers",
    "agreement",
    "attack",
    "baseline",
    "candidates",
    "concept_precision",
    "debias",
    "describe",
    "distinct_texts",
    "effect_means",
    "find_prototypes",
    "find_targets",
    "fooled",
    "image_concepts",
    "joint",
    "largest_effects",
    "magnitude_spectrum",
    "matching_loss",
    "mean_ablate",
    "measured_roles",
    "mined_phrases",
    "named_roles",
    "named_values",
    "neighbours",
    "neuron_heatmaps",
    "omp",
    "omp_sizes",
    "phrase_scores",
    "prepare_texts",
    "rank_one",
    "recompose",
    "reconstruct",
    "reference_prototype",
    "reference_scores",
    "replace_effects",
    "separated",
    "shared_values",
    "sort_match_loss",
    "sort_match_prototype",
    "spurious_heads",
    "strongest_neurons",
    "synonyms",
    "textspan",
    "textspan_heads",
    "through_heads",
    "top_images",
    "true_concepts",
    "value_agreement",
    "visual_scores",
    "vital",
    "vital_album",
]

_EXPORTS = {
    "baseline": "baselines",
    "find_targets": "targets",
    "magnitude_spectrum": "canvases",
    "reference_scores": "reference_scores",
    "vital": "vital",
    "visual_scores": "visual_scores",
    "vital_album": "album",
    "find_prototypes": "prototypes",
    "Judges": "judges",
    "Attributor": "relevance",
    "Start": "relevance",
    "ablate_components": "ablation",
    "ablate_effects": "neurons",
    "ablate_heads": "ablation",
    "ablate_layers": "ablation",
    "agreement": "roles",
    "concept_precision": "concepts",
    "attack": "adversarial",
    "candidates": "adversarial",
    "debias": "spurious",
    "describe": "describe",
    "distinct_texts": "pools",
    "effect_means": "neurons",
    "image_concepts": "concepts",
    "fooled": "adversarial",
    "joint": "joint",
    "largest_effects": "neurons",
    "matching_loss": "sort_matching",
    "mean_ablate": "ablation",
    "measured_roles": "roles",
    "mined_phrases": "adversarial",
    "named_roles": "roles",
    "named_values": "neuron_labels",
    "neighbours": "roles",
    "neuron_heatmaps": "neuron_maps",
    "omp": "sparse",
    "omp_sizes": "sparse",
    "phrase_scores": "adversarial",
    "prepare_texts": "pools",
    "rank_one": "neurons",
    "recompose": "sparse",
    "reconstruct": "textspan",
    "reference_prototype": "sort_matching",
    "replace_effects": "neurons",
    "separated": "groups",
    "shared_values": "neuron_labels",
    "sort_match_loss": "sort_matching",
    "sort_match_prototype": "sort_matching",
    "spurious_heads": "spurious",
    "strongest_neurons": "adversarial",
    "synonyms": "adversarial",
    "textspan": "textspan",
    "textspan_heads": "textspan",
    "through_heads": "neurons",
    "top_images": "roles",
    "true_concepts": "concepts",
    "value_agreement": "neuron_labels",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"optogram.methods.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'optogram.methods' has no attribute {name!r}")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing the submodule `textspan` would otherwise hide the function of that name
        if name not in _EXPORTS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
