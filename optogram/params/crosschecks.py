"""What fields of params.yaml must be to each other, and to the files that they name, for a run to come to its end."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optogram.params.root

# Names stand in the commands of dvc.yaml, which a shell reads, in dotted keys and in paths.
NAME = re.compile(r"[^\W_][\w-]{0,79}")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# what DVC takes for an address, with or without //
SCHEME = re.compile(r"(azure|dvc|gdrive|gs|hdfs|https?|memory|oss|remote|s3|ssh|webdavs?|webhdfs):")
KINDS = ("clip", "classifier")
# of a family, whose sections the type of the params does not have
GANS, PRIORS, SAMPLES, GENERATED, JUDGES = "train_gan", "train_diffusion", "sample", "generate", "train_judge"
LOADED = "load_diffusion"
NPCA, SCORES = "npca", "spurious_scores"
# sections whose models lie in one folder of artifacts
TOGETHER = (
    ("train_clip", "load_clip", "train_classifier", "load_classifier"),
    (GANS, "load_generator"),
    (PRIORS, LOADED),
    (SAMPLES, GENERATED),
)


def check_name(name: str) -> str:
    """`name` if it can name a model or a pool, which it then names in folders, stages and commands too; ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a name; expected at most 80 letters, digits, _ and -, such as my_model")
    # DVC's run cache is blind to nested keys of these names
    if name in ("size", "nfiles"):
        raise ValueError(f"{name!r} cannot be a name; choose another plain word")
    return name


def problems(params: "optogram.params.root.Params") -> Iterator[str]:
    """Every setting that no run can work with, as far as params alone tell: the key, its value, why, and the fix."""
    # a name that is not there would give errors of its own in all later checks
    yield from (found := [*_models(params), *_lists(params), *_splits(params), *_sources(params)])
    if not found:
        yield from (*_trained(params), *_gans(params), *_diffusions(params), *_samples(params), *_groups(params))
        yield from _pools(params)


def missing_files(params: "optogram.params.root.Params") -> Iterator[str]:
    """Every file or folder that params name and that is not on this disk, seen from the current folder."""
    named = {"photos.path": params.photos.path if params.photos.splits else None}
    named |= {f"texts.files.{name}": path for name, path in params.texts.files.items()}
    for section in ("load_clip", "load_classifier", "load_generator"):
        models = getattr(params, section).models
        named |= {f"{section}.models.{name}.checkpoint": source.checkpoint for name, source in models.items()}
    priors = getattr(params, LOADED).models
    named |= {f"load_diffusion.models.{name}.path": source.path for name, source in priors.items()}
    for key, path in named.items():
        if path is not None and not exists(path):
            yield f"{key} = {path!r}, but there is no such file or folder{_why(path)}"


def exists(path: str) -> bool:
    """Whether a file or folder is there and can be reached; a path that is too long for a name leads to none."""
    return not _unreached(path) and Path(path).exists()


def _unreached(path: str) -> str:
    """Why it cannot be told whether a file or folder is there; "" if it can."""
    try:
        Path(path).exists()
    except OSError as error:  # too long for a name, or in a folder that may not be entered
        return error.strerror or str(error)
    return ""


def _why(path: str) -> str:
    """What may have gone wrong on the way from the keyboard, with the fix."""
    if path.startswith("~"):
        home = f"{Path.home()}{path[1:]}" if path[1:2] in ("", "/") else "its full path"
        return f": ~ is a shell's word for a home folder, and no shell has replaced it. Write {home}"
    if URL.match(path):
        return ": it is an address. Download it, and name the file"
    if path[:1] in ("'", '"') and path[-1:] == path[:1]:
        return f": the quotes are taken for a part of its name. Write {path[1:-1]}"
    if path != path.strip() and exists(path.strip()):
        return f": there is one without the spaces around it. Write {path.strip()}"
    if "$$" in path and exists(path.replace("$$", "$")):
        return f": a dollar is typed once. Write {path.replace('$$', '$')}"
    if reason := _unreached(path):
        return f" that can be reached: {reason}. Check its name and the permissions of the folders above it"
    return "" if Path(path).is_absolute() else f" in {Path.cwd()}"


def _models(params: "optogram.params.root.Params") -> Iterator[str]:
    for kind in KINDS:
        known = _made(params, kind)
        for name in getattr(params, f"{kind}s"):
            if name not in known:
                yield f"{kind}s names {name!r}, but train_{kind}.models and load_{kind}.models have {known}"
    targets, vital, scores = params.targets, params.vital, params.visual_scores
    for where, names in (
        ("targets.inner", targets.inner or []),
        ("targets.layer", targets.layer),
        ("targets.neurons", targets.neurons),
        ("targets.split", targets.split),
        ("vital.layers", vital.layers),
        ("vital.weights", vital.weights),
        ("vital.inner_weights", vital.inner_weights),
        ("reference_sets.models", params.reference_sets.models),
        ("visual_scores.second", [scores.second] if scores.second else []),
    ):
        for name in names:
            if name not in params.classifiers:
                yield f"{where} names {name!r}, but classifiers has {params.classifiers}"
    if scores.run and scores.clip not in params.clips:
        yield f"visual_scores.clip = {scores.clip!r}, but clips has {params.clips}"
    for section in ("activations", SCORES):
        if unknown := sorted({*getattr(params, section).layers} - {*params.classifiers}):
            yield f"{section}.layers names {unknown[0]!r}, but classifiers are {params.classifiers}"
    for sections in TOGETHER:
        of: dict[str, str] = {}
        for section in sections:
            for name in getattr(params, section).models:
                if name in of:
                    yield f"{name!r} is both in {of[name]}.models and in {section}.models; names must differ"
                of[name] = section


def _lists(params: "optogram.params.root.Params") -> Iterator[str]:
    """Each entry of these lists is a stage."""
    for key in (
        *("clips", "classifiers", "texts.pools", "activations.splits", "contributions.splits"),
        *("second_order.splits", "second_order.layers", "reference_sets.models"),
    ):
        section, _, field = key.rpartition(".")
        entries = list(getattr(getattr(params, section) if section else params, field))
        if twice := [entry for k, entry in enumerate(entries) if entry in entries[:k]]:
            yield f"{key} names {twice[0]!r} twice; once is enough"


def _splits(params: "optogram.params.root.Params") -> Iterator[str]:
    if both := sorted({*params.scenes.splits} & {*params.photos.splits}):
        yield f"split {both[0]!r} is both in scenes.splits and in photos.splits; empty one of them"
    splits = {*params.scenes.splits, *params.photos.splits}
    used = ["reference", "eval", *(["train"] if params.train_clip.models else []), params.spurious.split]
    used += [*params.contributions.splits, *params.activations.splits, *params.second_order.splits]
    for section in ("train_classifier", GANS, PRIORS, JUDGES, "drawn", "fidelity"):
        used += [training.split for training in getattr(params, section).models.values()]
    used += params.targets.split.values()
    used += [getattr(params, section).split for section in (NPCA, SCORES)]
    for split in dict.fromkeys(used):
        if split not in splits:
            yield f"split {split!r} is used, but scenes.splits and photos.splits have {sorted(splits)}"
    for key, cached, needed in (
        ("contributions.splits", params.contributions.splits, ("reference", "eval", params.spurious.split)),
        ("second_order.splits", params.second_order.splits, ("reference", "eval")),
    ):
        if lacking := [split for split in dict.fromkeys(needed) if split not in cached]:
            yield f"{key} = {cached}, but later stages read {', '.join(lacking)} too; add it"


def _sources(params: "optogram.params.root.Params") -> Iterator[str]:
    if params.photos.splits and (not params.photos.path or params.photos.path.startswith("hf:")):
        yield (
            f"photos.path = {params.photos.path!r}, expected a folder or zip of class folders: "
            "`make demo PROFILE=photos IMAGES=photos.zip`. A hub dataset: save it with `save_to_disk` first"
        )
    for key, path in (
        ("photos.path", params.photos.path),
        *((f"texts.files.{name}", path) for name, path in params.texts.files.items()),
    ):
        if URL.match(path):
            yield f"{key} = {path!r} is an address, expected a file or folder on this disk. Download it first"
        elif SCHEME.match(path):
            yield f"{key} = {path!r} begins as an address does. Write ./{path} for the file"


def _trained(params: "optogram.params.root.Params") -> Iterator[str]:
    """CLIPs trained here have their shape in params; that of loaded ones is known once they are here."""
    side = _side(params)
    for name, training in params.train_clip.models.items():
        model = f"train_clip.models.{name}"
        if training.width % training.head_width:
            yield f"{model}.width = {training.width} is no multiple of head_width = {training.head_width}; change it"
        heads = max(1, training.text_width // 32)
        if training.text_width % heads:
            yield f"{model}.text_width = {training.text_width}; expected a multiple of 32, the width of a text head"
        if side % training.patch:
            at = "photos.size" if params.photos.splits else "the side of a scene"
            yield f"{model}.patch = {training.patch} does not divide {at}, {side}; choose one that does"
        if name not in params.clips:
            continue
        for key, value, most, what in (
            ("textspan.size", params.textspan.size, training.head_width, "head_width"),
            ("textspan.rank", params.textspan.rank or 0, training.head_width, "head_width"),
            ("textspan.layers", params.textspan.layers, training.layers, "layers"),
            ("neurons.sizes and neurons.sparsity", max(params.neurons.curve), training.embed, "embed"),
            ("adversarial.sparsity", params.adversarial.sparsity, training.embed, "embed"),
        ):
            if value > most:
                yield f"{key} = {value}, but {model}.{what} = {most}; set it to at most {most}"
        for layer in params.second_order.layers:
            if layer >= training.layers - 1:
                last = training.layers - 1
                yield (
                    f"second_order.layers names {layer}, but {name} has layers 0 to {last}, and the last has no effect "
                    "through later ones; name only layers before it"
                )


def _side(params: "optogram.params.root.Params") -> int:
    return params.photos.size if params.photos.splits else 64


def _gans(params: "optogram.params.root.Params") -> Iterator[str]:
    """GANs draw images of one size, which is that of the images they are trained on."""
    side, clips = _side(params), _made(params, "clip")
    for name, training in getattr(params, GANS).models.items():
        if training.clip not in clips:
            at = f"train_gan.models.{name}.clip"
            yield f"{at} = {training.clip!r}, but train_clip.models and load_clip.models have {clips}"
        model, drawn = f"train_gan.models.{name}", 4 * 2 ** (len(training.widths) - 1)
        if drawn != side:
            at = "photos.size" if params.photos.splits else "the side of a scene"
            yield f"{model}.widths are {len(training.widths)}, of images of {drawn}, but {at} is {side}; change them"
        if training.warmup > training.steps:
            yield f"{model}.warmup = {training.warmup} is above its steps = {training.steps}; lower it"


def _diffusions(params: "optogram.params.root.Params") -> Iterator[str]:
    """The parts of diffusion models fit each other and the images."""
    side, clips = _side(params), [*params.train_clip.models, *params.load_clip.models]
    for name, training in getattr(params, PRIORS).models.items():
        model, codec = f"train_diffusion.models.{name}", training.codec
        halved = 2 ** (len(training.widths) - 1)
        if training.clip not in clips:
            yield f"{model}.clip = {training.clip!r}, but train_clip.models and load_clip.models have {clips}"
        if codec.channels > (most := 3 * codec.factor**2):
            yield f"{model}.codec.channels = {codec.channels}, but patches of side {codec.factor} have {most}; lower it"
        if side % (codec.factor * halved):
            at = "photos.size" if params.photos.splits else "the side of a scene"
            yield (
                f"{at} is {side}, but {model} needs a multiple of {codec.factor * halved}: codec.factor, and half of "
                "that for each of widths after the first; change them"
            )
        if training.warmup > training.steps:
            yield f"{model}.warmup = {training.warmup} is above its steps = {training.steps}; lower it"


def _samples(params: "optogram.params.root.Params") -> Iterator[str]:
    """What is drawn with, and who looks at it, has been made."""
    models = {name: [*getattr(params, name).models] for name in (SAMPLES, GENERATED, JUDGES)}
    for kind in KINDS:
        models[kind] = _made(params, kind)
    for section, sources in ((SAMPLES, (PRIORS, LOADED)), (GENERATED, (GANS, "load_generator"))):
        known, of = [name for one in sources for name in getattr(params, one).models], ".models and ".join(sources)
        for name in models[section]:
            if name not in known:
                yield f"{section}.models names {name!r}, but {of}.models have {known}"
    drawn = models[SAMPLES] + models[GENERATED]
    trained = {name: of.split for section in (GANS, PRIORS) for name, of in getattr(params, section).models.items()}
    for name, training in getattr(params, JUDGES).models.items():
        if training.warmup > training.steps:
            at = f"train_judge.models.{name}"
            yield f"{at}.warmup = {training.warmup} is above its steps = {training.steps}; lower it"
    for section in ("drawn", "fidelity"):
        for name, eyes in getattr(params, section).models.items():
            at = f"{section}.models.{name}"
            if name not in drawn:
                yield f"{section}.models names {name!r}, but sample.models and generate.models have {drawn}"
            if name in trained and eyes.split != trained[name]:
                yield f"{at}.split = {eyes.split!r}, but {name} is trained on {trained[name]!r}; name the same"
            if eyes.clip not in models["clip"]:
                yield f"{at}.clip = {eyes.clip!r}, but train_clip.models and load_clip.models have {models['clip']}"
            if section == "drawn" and eyes.judge not in models[JUDGES]:
                yield f"{at}.judge = {eyes.judge!r}, but train_judge.models has {models[JUDGES]}"
            if section == "fidelity" and eyes.classifier not in models["classifier"]:
                known = models["classifier"]
                yield f"{at}.classifier = {eyes.classifier!r}, but train_classifier and load_classifier have {known}"


def _made(params: "optogram.params.root.Params", kind: str) -> list[str]:
    """Names of the models of a kind, trained or loaded."""
    return [name for word in ("train", "load") for name in getattr(params, f"{word}_{kind}").models]


def _groups(params: "optogram.params.root.Params") -> Iterator[str]:
    """Models that are matched have been made, and there are two at least."""
    rosetta = getattr(params, "rosetta")  # noqa: B009  the type of the params does not have it
    models = {kind: _made(params, kind) for kind in KINDS}
    generators, diffusions = (
        [name for one in sections for name in getattr(params, one).models]
        for sections in ((GANS, "load_generator"), (PRIORS, LOADED))
    )
    splits = [*params.scenes.splits, *params.photos.splits]
    for name, group in rosetta.groups.items():
        at = f"rosetta.groups.{name}"
        known = models["clip"] + models["classifier"]
        for model in group.models:
            if model not in known:
                yield f"{at}.models names {model!r}, but there are {known}"
        if len({*group.models}) + (group.generator is not None) + (group.diffusion is not None) < 2:
            yield f"{at}.models = {group.models}, expected two models or more, or a generator; name another one"
        if group.generator is not None and group.generator not in generators:
            yield f"{at}.generator = {group.generator!r}, but train_gan and load_generator have {generators}"
        if group.diffusion is not None and group.diffusion not in diffusions:
            yield f"{at}.diffusion = {group.diffusion!r}, but train_diffusion and load_diffusion have {diffusions}"
        if len({*group.times}) < len(group.times):
            yield f"{at}.times = {group.times} names a time twice; name it once"
        if group.judge is not None and group.judge not in getattr(params, JUDGES).models:
            yield f"{at}.judge = {group.judge!r}, but train_judge.models has {[*getattr(params, JUDGES).models]}"
        if group.split not in splits:
            yield f"{at}.split = {group.split!r}, but scenes.splits and photos.splits have {splits}"
        for model in group.layers:
            if model not in (members := [*group.models, group.generator, group.diffusion]):
                yield f"{at}.layers names {model!r}, which is not among its members {[*filter(None, members)]}"
    inversion = getattr(params, "rosetta_inversion")  # noqa: B009
    eyes, drawing = inversion.eyes, [group.generator for group in rosetta.groups.values()]
    if eyes is not None and any(drawing) and eyes not in models["clip"] + models["classifier"]:
        yield f"rosetta_inversion.eyes = {eyes!r}, but there are {models['clip'] + models['classifier']}"
    if eyes is None and inversion.loss == "perceptual":
        yield "rosetta_inversion.loss = 'perceptual' needs rosetta_inversion.eyes; name a classifier or a CLIP"
    if rosetta.clip is not None and rosetta.clip not in models["clip"]:
        yield f"rosetta.clip = {rosetta.clip!r}, but train_clip.models and load_clip.models have {models['clip']}"
    if rosetta.pool not in params.texts.names:
        yield f"rosetta.pool = {rosetta.pool!r}, but texts has the pools {params.texts.names}"


def _pools(params: "optogram.params.root.Params") -> Iterator[str]:
    texts, textspan = params.texts, params.textspan
    if not texts.names:
        yield "texts.pools and texts.files are both empty; name at least one pool"
    if textspan.rank is not None and textspan.rank < textspan.size:
        yield f"textspan.rank = {textspan.rank} is below textspan.size = {textspan.size}; raise rank, or lower size"
    for name in ("words", "random"):
        count, most = getattr(texts, name), max(textspan.size, *params.neurons.curve)
        if name in texts.pools and count < most:
            yield f"texts.{name} = {count}, but textspan.size and neurons.sizes pick up to {most} of them; raise it"
    if params.scenes.splits and params.adversarial.pool not in texts.names:
        yield f"adversarial.pool = {params.adversarial.pool!r}, but texts has the pools {texts.names}"
    targets = params.targets
    if targets.concept_classes and targets.concepts > targets.concept_rank:
        yield f"targets.concepts = {targets.concepts} is above targets.concept_rank = {targets.concept_rank}; lower it"
