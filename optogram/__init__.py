"""Optogram: what vision models see, layer by layer, head by head, neuron by neuron."""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram import decompose, guidance, methods
    from optogram.catalog.find import catalog, open, pull
    from optogram.models.generative.diffusion_folders import load_diffusion
    from optogram.models.generative.generators import load_generator
    from optogram.models.loading.specs import load_model

__version__ = "0.1.0"
__all__ = [
    "catalog",
    "decompose",
    "guidance",
    "load_diffusion",
    "load_generator",
    "load_model",
    "methods",
    "open",
    "pull",
]

# Lazy (PEP 562): `import optogram` costs nothing, and a stage depends only on the modules it imports.
_EXPORTS = {
    "catalog": "optogram.catalog.find",
    "load_diffusion": "optogram.models.generative.diffusion_folders",
    "load_generator": "optogram.models.generative.generators",
    "load_model": "optogram.models.loading.specs",
    "open": "optogram.catalog.find",
    "pull": "optogram.catalog.find",
}


def __getattr__(name: str) -> Any:
    if name in ("decompose", "guidance", "methods"):
        return import_module(f"optogram.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'optogram' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing a module of the room `catalog` would otherwise hide the function of that name
        if name not in _EXPORTS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


# Modules by the names that they had before the rooms were families, for scripts and notebooks written then.
_MOVED = {
    "clone": "pipeline.clone",
    "closure": "pipeline.closure",
    "diff": "pipeline.diff",
    "doctor": "pipeline.doctor",
    "housekeeping": "pipeline.gc",
    "hub": "data.network",
    "lineage": "pipeline.lineage",
    "methods.ablation": "methods.heads.mean_ablation",
    "methods.adversarial": "methods.neurons.adversarial",
    "methods.aims": "methods.objectives",
    "methods.album": "methods.visualisation.render",
    "methods.album_baselines": "methods.visualisation.render_rivals",
    "methods.baselines": "methods.visualisation.rivals",
    "methods.canvases": "methods.visualisation.parameterisations",
    "methods.chance": "metrics.permutation",
    "methods.circuits": "methods.visualisation.circuits",
    "methods.concept_directions": "methods.visualisation.craft",
    "methods.concepts": "methods.neurons.image_concepts",
    "methods.deep_inversion": "methods.visualisation.deep_inversion",
    "methods.describe": "methods.heads.descriptions",
    "methods.describe_neurons": "methods.neurons.descriptions",
    "methods.drawing": "methods.visualisation.optimise",
    "methods.groups": "methods.neurons.groups",
    "methods.head_space": "decompose.head_space",
    "methods.heatmaps": "methods.attribution.heatmaps",
    "methods.indirect": "methods.neurons.indirect",
    "methods.joint": "methods.heads.token_maps",
    "methods.judges": "methods.visualisation.evaluators",
    "methods.neuron_ablation": "methods.neurons.ablation",
    "methods.neuron_labels": "methods.neurons.labels",
    "methods.neuron_maps": "methods.neurons.maps",
    "methods.neuron_texts": "methods.neurons.texts",
    "methods.patches": "decompose.patches",
    "methods.pools": "methods.neurons.text_dictionary",
    "methods.prototypes": "methods.visualisation.prototypes",
    "methods.reference_album": "methods.visualisation.render_references",
    "methods.reference_scores": "methods.visualisation.reference_scores",
    "methods.reference_sets": "methods.visualisation.reference_sets",
    "methods.relevance": "decompose.relevance",
    "methods.relevance_rules": "decompose.relevance_rules",
    "methods.roles": "methods.heads.roles",
    "methods.sort_matching": "methods.visualisation.sort_matching",
    "methods.sparse": "methods.neurons.sparse",
    "methods.spurious": "methods.heads.spurious",
    "methods.targets": "methods.visualisation.targets",
    "methods.textspan": "methods.heads.textspan",
    "methods.views": "methods.visualisation.transforms",
    "methods.visual_scores": "methods.visualisation.scores",
    "methods.vital": "methods.visualisation.vital",
    "models.architectures": "models.loading.architectures",
    "models.checkpoint": "models.loading.checkpoints",
    "models.classifier_folder": "models.loading.classifier_folders",
    "models.classifiers": "models",
    "models.folder": "models.loading.clip_folders",
    "models.model_files": "models.loading.model_files",
    "models.spec": "models.loading.specs",
    "models.train": "models.training.clip",
    "models.train_classifier": "models.training.classifier",
    "profiles": "params.profiles",
    "sections": "params.sections",
    "store.catalog": "catalog.find",
    "store.compare": "catalog.compare",
    "store.remote": "catalog.remote",
    "verify": "pipeline.verify",
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        known = fullname.startswith("optogram.") and fullname.removeprefix("optogram.") in _MOVED
        return ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = import_module(f"optogram.{_MOVED[name.removeprefix('optogram.')]}")


sys.meta_path.append(_Moved())
