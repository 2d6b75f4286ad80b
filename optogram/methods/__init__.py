"""Methods: arrays and models in, findings out. Lazy exports (PEP 562)."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram.decompose.relevance import Attributor, Start
    from optogram.methods.heads.descriptions import describe
    from optogram.methods.heads.mean_ablation import ablate_components, ablate_heads, ablate_layers, mean_ablate
    from optogram.methods.heads.roles import agreement, measured_roles, named_roles, neighbours, top_images
    from optogram.methods.heads.spurious import debias, spurious_heads
    from optogram.methods.heads.textspan import reconstruct, textspan, textspan_heads
    from optogram.methods.heads.token_maps import joint
    from optogram.methods.neurons.adversarial import (
        attack,
        candidates,
        fooled,
        mined_phrases,
        phrase_scores,
        strongest_neurons,
        synonyms,
    )
    from optogram.methods.neurons.effects import (
        ablate_effects,
        effect_means,
        largest_effects,
        rank_one,
        replace_effects,
        through_heads,
    )
    from optogram.methods.neurons.groups import separated
    from optogram.methods.neurons.image_concepts import concept_precision, image_concepts, true_concepts
    from optogram.methods.neurons.labels import named_values, shared_values, value_agreement
    from optogram.methods.neurons.maps import neuron_heatmaps
    from optogram.methods.neurons.sparse import omp, omp_sizes, recompose
    from optogram.methods.neurons.text_dictionary import distinct_texts, prepare_texts
    from optogram.methods.visualisation.evaluators import Judges
    from optogram.methods.visualisation.parameterisations import magnitude_spectrum
    from optogram.methods.visualisation.prototypes import find_prototypes
    from optogram.methods.visualisation.reference_scores import reference_scores
    from optogram.methods.visualisation.render import vital_album
    from optogram.methods.visualisation.rivals import baseline
    from optogram.methods.visualisation.scores import visual_scores
    from optogram.methods.visualisation.sort_matching import (
        matching_loss,
        reference_prototype,
        sort_match_loss,
        sort_match_prototype,
    )
    from optogram.methods.visualisation.targets import TargetOptions, find_targets
    from optogram.methods.visualisation.vital import Drawing, VitalOptions, vital

__all__ = [
    "Attributor",
    "Drawing",
    "Judges",
    "Start",
    "TargetOptions",
    "VitalOptions",
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
    "baseline": "methods.visualisation.rivals",
    "find_targets": "methods.visualisation.targets",
    "TargetOptions": "methods.visualisation.targets",
    "magnitude_spectrum": "methods.visualisation.parameterisations",
    "reference_scores": "methods.visualisation.reference_scores",
    "Drawing": "methods.visualisation.vital",
    "VitalOptions": "methods.visualisation.vital",
    "vital": "methods.visualisation.vital",
    "visual_scores": "methods.visualisation.scores",
    "vital_album": "methods.visualisation.render",
    "find_prototypes": "methods.visualisation.prototypes",
    "Judges": "methods.visualisation.evaluators",
    "Attributor": "decompose.relevance",
    "Start": "decompose.relevance",
    "ablate_components": "methods.heads.mean_ablation",
    "ablate_effects": "methods.neurons.effects",
    "ablate_heads": "methods.heads.mean_ablation",
    "ablate_layers": "methods.heads.mean_ablation",
    "agreement": "methods.heads.roles",
    "concept_precision": "methods.neurons.image_concepts",
    "attack": "methods.neurons.adversarial",
    "candidates": "methods.neurons.adversarial",
    "debias": "methods.heads.spurious",
    "describe": "methods.heads.descriptions",
    "distinct_texts": "methods.neurons.text_dictionary",
    "effect_means": "methods.neurons.effects",
    "image_concepts": "methods.neurons.image_concepts",
    "fooled": "methods.neurons.adversarial",
    "joint": "methods.heads.token_maps",
    "largest_effects": "methods.neurons.effects",
    "matching_loss": "methods.visualisation.sort_matching",
    "mean_ablate": "methods.heads.mean_ablation",
    "measured_roles": "methods.heads.roles",
    "mined_phrases": "methods.neurons.adversarial",
    "named_roles": "methods.heads.roles",
    "named_values": "methods.neurons.labels",
    "neighbours": "methods.heads.roles",
    "neuron_heatmaps": "methods.neurons.maps",
    "omp": "methods.neurons.sparse",
    "omp_sizes": "methods.neurons.sparse",
    "phrase_scores": "methods.neurons.adversarial",
    "prepare_texts": "methods.neurons.text_dictionary",
    "rank_one": "methods.neurons.effects",
    "recompose": "methods.neurons.sparse",
    "reconstruct": "methods.heads.textspan",
    "reference_prototype": "methods.visualisation.sort_matching",
    "replace_effects": "methods.neurons.effects",
    "separated": "methods.neurons.groups",
    "shared_values": "methods.neurons.labels",
    "sort_match_loss": "methods.visualisation.sort_matching",
    "sort_match_prototype": "methods.visualisation.sort_matching",
    "spurious_heads": "methods.heads.spurious",
    "strongest_neurons": "methods.neurons.adversarial",
    "synonyms": "methods.neurons.adversarial",
    "textspan": "methods.heads.textspan",
    "textspan_heads": "methods.heads.textspan",
    "through_heads": "methods.neurons.effects",
    "top_images": "methods.heads.roles",
    "true_concepts": "methods.neurons.image_concepts",
    "value_agreement": "methods.neurons.labels",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"optogram.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'optogram.methods' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing the submodule `textspan` would otherwise hide the function of that name
        if name not in _EXPORTS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
