"""What the fields of methods that lead a diffusion model must be to each other, and to what they name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optogram.params.root
    from optogram.params.guidance import CounterfactualGroup, Counterfactuals, DisagreementGroup

KINDS = {
    "models": ("train_clip", "load_clip", "train_classifier", "load_classifier"),
    "classifiers": ("train_classifier", "load_classifier"),
    "clips": ("train_clip", "load_clip"),
    "judges": ("train_judge",),
    "diffusions": ("train_diffusion", "load_diffusion"),
}
Known = Mapping[str, Sequence[str]]


def led(params: "optogram.params.root.Params") -> Iterator[str]:
    """Every setting that no run can work with: the key, its value, why, and the fix."""
    known = {kind: [name for one in of for name in getattr(params, one).models] for kind, of in KINDS.items()}
    known["splits"] = [*params.scenes.splits, *params.photos.splits]
    for name, group in getattr(params, "disagreement").groups.items():  # noqa: B009  the type of the params lacks it
        yield from _disagreeing(f"disagreement.groups.{name}", group, known)
    keys = {"classifier": "classifiers", "judge": "judges", "diffusion": "diffusions", "split": "splits"}
    for name, group in getattr(params, "neuron_pictures").groups.items():  # noqa: B009
        yield from _named(f"neuron_pictures.groups.{name}", group, keys, known)
    section = getattr(params, "counterfactuals")  # noqa: B009
    for name, group in section.groups.items():
        yield from _changed(f"counterfactuals.groups.{name}", group, known)
    yield from _searched(section)


def _named(at: str, group: object, keys: Mapping[str, str], known: Known) -> Iterator[str]:
    """What is named is there. keys: the kind of what each field names."""
    for key, kind in keys.items():
        given = getattr(group, key)
        for named in given if isinstance(given, list) else [given] * (given is not None):
            if named not in known[kind]:
                yield f"{at}.{key} names {named!r}, but the {kind} are {[*known[kind]]}"


def _disagreeing(at: str, group: "DisagreementGroup", known: Known) -> Iterator[str]:
    keys = {"one": "models", "other": "models", "others": "classifiers", "judge": "judges"}
    yield from _named(at, group, keys | {"diffusion": "diffusions", "clip": "clips", "split": "splits"}, known)
    looking = [group.one, group.other, *group.others]
    if twice := [model for k, model in enumerate(looking) if model in looking[:k]]:
        yield f"{at}: one, other and others name {twice[0]!r} twice; name each model once"
    if group.tied and (group.cue is None or group.judge is None):
        yield f"{at}.tied needs a cue, whose values it names, and a judge, who sees them; set both"
    if group.cue is not None and not group.tied:
        yield f"{at}.cue = {group.cue!r}, but tied is empty; name the values of {group.cue} that were planted"


def _changed(at: str, group: "CounterfactualGroup", known: Known) -> Iterator[str]:
    keys = {"classifier": "models", "others": "classifiers", "judge": "judges", "diffusion": "diffusions"}
    yield from _named(at, group, keys | {"split": "splits"}, known)
    if group.classifier in known["models"] and (group.classifier in known["clips"]) != (group.attribute is not None):
        which = "a CLIP, whose classes are" if group.attribute is None else "a classifier, which has no use for"
        yield f"{at}.classifier = {group.classifier!r} is {which} values of {at}.attribute = {group.attribute!r}"
    if group.classifier in group.others:
        yield f"{at}.others names {group.classifier!r}, which leads; name models that have no part in it"


def _searched(section: "Counterfactuals") -> Iterator[str]:
    for name in ("injected", "blended"):
        if bad := [share for share in getattr(section, name) if not 0 <= share <= 1]:
            yield f"counterfactuals.{name} has {bad[0]}, expected shares of the steps, 0 to 1"
    for name in ("erode", "dilate"):
        if (side := getattr(section.kept, name)) % 2 == 0:
            yield f"counterfactuals.kept.{name} = {side}, expected an odd number of pixels, 1 for none"
    if section.below >= section.guidance.steps:
        yield (
            f"counterfactuals.below = {section.below} leaves no step of counterfactuals.guidance.steps = "
            f"{section.guidance.steps}; lower it"
        )
