"""`python -m benchmarks.guidance_sweep`: learning rates and their rivals for counterfactuals on the demo's models.

Writes the table of docs/guidance.md, from which the demo's settings come. All settings have the same images, targets
and inversions. It needs the artifacts of a run of the demo (`dvc pull -r shipped`, and images/eval).
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import optogram
from optogram.guidance.engine import guide
from optogram.guidance.masks import cleaned, latent_mask
from optogram.guidance.options import COUNTERFACTUALS, Guidance
from optogram.methods.guidance.asked import ask
from optogram.methods.guidance.counterfactuals import Candidates, Kept, Scene, start_of
from optogram.methods.guidance.measured import Search, Seers, inverted, looked, probabilities
from optogram.methods.image_objectives import Keep, LogProbability
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.generative.sampling import to_pixels
from optogram.models.judging.judge import load_judge
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.params.guidance import Counterfactuals
from stages.guiding import kept_as, options_of

IMAGES, SEED = 24, 1
DOCUMENT = Path(__file__).parents[1] / "docs/guidance.md"
MARKS = ("<!-- sweep -->", "<!-- /sweep -->")


def settings() -> dict[str, tuple[Guidance, Kept]]:
    """The demo's, and what is changed of it."""
    section = Counterfactuals()
    demo, kept = options_of(section.guidance), kept_as(section.kept)
    paper = COUNTERFACTUALS.latents_rate, COUNTERFACTUALS.states_rate
    found = {"the demo's": (demo, kept)}
    for latents, states in ((0.003, 0.005), (0.03, 0.05), (0.06, 0.1), paper):
        name = f"rates {latents:g} and {states:g}" + (", the paper's" if (latents, states) == paper else "")
        found[name] = replace(demo, latents_rate=latents, states_rate=states), kept
    return found | {
        "20 iterations": (replace(demo, iterations=20), kept),
        "4 views with noise .1": (replace(demo, crops=4, noise=0.1), kept),
        "distances a fifth": (demo, replace(kept, pixels=50.0, encoded=5.0)),
        "gradients of the last 5 steps": (replace(demo, differentiated=5), kept),
    }


def main() -> None:
    """Measure, print and write."""
    root = Path("artifacts")
    images = optogram.open("images/eval").load()
    diffusion = load_diffusion(str(root / "diffusions/prior"), device="cpu")
    models = {name: load_classifier_folder(root / "models" / name, device="cpu") for name in ("resnet", "vit")}
    seers = Seers(models["resnet"], {"vit": models["vit"]}, load_judge(root / "judges/judge", "cpu"))
    said = probabilities(seers.classifier, images["pixels"].values)
    asked = ask(images, seers.classifier.classes, said, count=IMAGES, seed=SEED)
    scene = inverted(diffusion, images, asked, Search(guidance=options_of(Counterfactuals().guidance)), SEED, "cpu")
    original = images["pixels"].values[scene.asked.rows]
    rows = []
    for name, (options, kept) in settings().items():
        start = time.process_time()
        drawn = {"": _drawn(diffusion, scene, seers, options, kept)}
        if not rows:
            none = _drawn(diffusion, scene, seers, replace(options, iterations=0), kept)
            drawn = {"no optimisation": none} | drawn
        for condition, pictures in drawn.items():
            found = looked(original, to_pixels(pictures, name), scene, seers)
            agreed = found["flip"] & (found["other_label"] == scene.asked.target[:, None]).all("model")
            values = (found["flip"], agreed, found["kept"], found["background_l1"], found["inside_l1"])
            cells = [f"{float(value.mean()):.3f}" for value in values]
            seconds = "" if condition else f"{time.process_time() - start:.0f}"
            rows.append([condition or name, *cells, seconds])
            print(*rows[-1], sep="\t", flush=True)
    _write(rows, len(scene.images))


def _drawn(diffusion: Diffusion, scene: Scene, seers: Seers, options: Guidance, kept: Kept) -> torch.Tensor:
    mask = cleaned(scene.mask, erode=kept.erode, dilate=kept.dilate, blur=kept.blur)
    small = latent_mask(mask, diffusion.codec.factor)
    near = Keep(scene.images, diffusion.codec.encode(scene.images), mask, small, kept.pixels, kept.encoded)
    objective = LogProbability(seers.classifier, torch.from_numpy(scene.asked.target))
    start = start_of(diffusion, scene, scene.asked.changed, small, Candidates(), options, objective, near)
    return guide(diffusion, start, objective, options, seeds=scene.seeds, distance=near).images


def _write(rows: list[list[Any]], images: int) -> None:
    head = ["setting", "flipped", "all agree", "others kept", "change outside", "inside", "CPU-s"]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    text = DOCUMENT.read_text()
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    threads = torch.get_num_threads()
    said = f"{images} scenes of `images/eval`, toward five other classes each as often; threads: {threads}."
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n{said}\n\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
