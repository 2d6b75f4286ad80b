"""Methods: VITAL's four rivals behind one interface, as section A.1 sets them: Fourier, MACO, DeepInversion, PII.

What departs from the published code: DeepInversion, see `deep_inversion`. Fourier and MACO have A.1's Adam and noise
before the crops, where the code has NAdam and noise after them. PII's image grows as `Growing` has it, its stages share
one optimiser, and their steps are as many as the budget gives.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from optogram.errors import ParamError, ShapeError, nearest
from optogram.methods.objectives import Aim, check_aim, reached, shortfall
from optogram.methods.visualisation.deep_inversion import deep_inversion
from optogram.methods.visualisation.optimise import Drawn, Tell, draw, draws, image_seed, jitter, jittered
from optogram.methods.visualisation.parameterisations import FourierCanvas, Growing, MacoCanvas
from optogram.methods.visualisation.transforms import colour_shifts, cropped, crops, shifted
from optogram.models.loading.classifiers import Classifier

METHODS = ("fourier", "maco", "deepinversion", "pii")

RATES = {"fourier": 1.0, "maco": 1.0, "deepinversion": 0.05, "pii": 0.01}
"""Learning rates of Adam: A.1's, and of PII that of its published code."""

NOISE = 0.1
JITTER = 32 / 224


def baseline(
    method: str,
    classifier: Classifier,
    aim: Aim,
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    spectrum: Float[Tensor, "colour y frequency"] | None = None,
    views: int = 8,
    batch: int = 64,
    learning_rate: float | None = None,
    record: Sequence[int] | None = None,
    tell: Tell | None = None,
) -> Drawn:
    """Draw one image for each seed by one of METHODS, all at once, on the model's device.

    aim: one row for each seed; of many seeds a target take `aim.repeat(seeds)`. size: (y, x) of the images. spectrum:
    of `magnitude_spectrum`, for maco. views: crops (fourier, maco) or augmented copies (pii) of each image a step.
    batch: least number of images that deepinversion draws together. learning_rate: instead of that in RATES. record,
    tell: as `draw`. Images do not depend on one another but for deepinversion.

    Raises ParamError for another method, maco without a spectrum, fewer than one view, and as `draw`; ShapeError unless
    there is one seed a row of the aim, and for a spectrum of another size; ModelError and others as `check_aim` and
    `deep_inversion`.

    >>> from optogram.methods import baseline
    >>> from optogram.methods.objectives import ClassAim
    >>> aim = ClassAim(torch.tensor([0, 3]))
    >>> baseline("fourier", classifier, aim, seeds=[0, 1], size=(32, 32), steps=2).rgb.shape
    torch.Size([2, 3, 32, 32])
    """
    if method not in METHODS:
        raise ParamError(f"baseline = {method!r}, expected one of {', '.join(METHODS)}.{nearest(method, [*METHODS])}")
    if len(seeds) != len(aim):
        raise ShapeError(f"{len(seeds)} seeds, but aims for {len(aim)} images. Give one seed for each.")
    if views < 1:
        raise ParamError(f"{method}: views = {views}, expected at least 1 of each image.")
    rate = RATES[method] if learning_rate is None else learning_rate
    if method == "deepinversion":
        return deep_inversion(
            classifier, aim, seeds=seeds, size=size, steps=steps, batch=batch, learning_rate=rate, record=record,
            tell=tell,
        )  # fmt: skip
    device = next(iter(classifier.model.parameters())).device
    aim = aim.to(device)
    if method == "pii":
        check_aim(classifier.model, aim, size)
        canvas = Growing(seeds, size, classifier.mean, classifier.std, device, steps=steps)
        loss = _inverted(classifier, aim, canvas, seeds, size, steps, views)
        return draw(canvas, loss, steps=steps, learning_rate=rate, betas=(0.5, 0.99), record=record, tell=tell)
    check_aim(classifier.model, aim, classifier.size or size)
    if method == "fourier":
        canvas = FourierCanvas(seeds, size, device)
    elif spectrum is None:
        raise ParamError("maco needs the magnitudes of a dataset: pass spectrum=magnitude_spectrum(images).")
    else:
        canvas = MacoCanvas(seeds, size, spectrum, device)
    loss = _maximised(classifier, aim, seeds, classifier.size or size, steps, views)
    return draw(canvas, loss, steps=steps, learning_rate=rate, record=record, tell=tell)


def _maximised(classifier: Classifier, aim: Aim, seeds: Sequence[int], size: tuple[int, int], steps: int, views: int):
    """Minus the activation, mean over noisy crops (section A.1)."""
    boxes, each = crops(seeds, steps, views), aim.repeat(views)

    def loss(rgb: Tensor, step: int) -> Tensor:
        noise = draws(seeds, tuple(rgb.shape[1:]), "uniform", stream=16 + step).to(rgb.device)
        seen = cropped(rgb + NOISE * (2 * noise - 1), boxes[:, step].to(rgb.device), size)
        return -reached(classifier.model, classifier.normalise(seen), each).view(-1, views).mean(1)

    return loss


def _inverted(
    classifier: Classifier,
    aim: Aim,
    canvas: Growing,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    copies: int,
):
    """Cross-entropy, or minus the activation, mean over copies of the middle with their own jitter and colours."""
    own = [image_seed(seed, "copy", k) for seed in seeds for k in range(copies)]
    moves, colours, each = jitter(own, steps, size, JITTER), colour_shifts(seeds, steps, copies), aim.repeat(copies)

    def loss(rgb: Tensor, step: int) -> Tensor:
        side = canvas.share(step)
        box = rgb.new_tensor([(1 - side) / 2, (1 - side) / 2, side]).expand(len(rgb), 1, 3)
        middle = cropped(rgb, box, size).repeat_interleave(copies, 0)
        seen = shifted(
            classifier.normalise(jittered(middle, moves[:, step])), colours[:, step].flatten(0, 1).to(rgb.device)
        )
        return shortfall(classifier.model, seen, each).view(-1, copies).mean(1)

    return loss
