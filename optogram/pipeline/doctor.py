"""What this machine has, and what the run in params.yaml needs."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from optogram.errors import OptogramError
from optogram.params.crosschecks import missing_files
from optogram.params.root import Params, load_params
from optogram.pipeline.costs import calibrate, expected
from optogram.pipeline.declared import declared

# Bytes an image of a cache artifact, from the schemas in docs/artifacts.
FLOAT = 4
# Options of DVC remotes that let their holder in (ask_password and the like only say to ask), and URLs with a password.
SECRET = re.compile(r"^(?!ask_).*(password|passphrase|secret|token|access_key|account_key|connection_string)")
PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]+@")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "bad"]
    what: str
    found: str


def findings(params_path: Path = Path("params.yaml")) -> list[Finding]:
    """Device, bf16, cores, memory and disk; whether params.yaml is valid; the disk that the run needs."""
    found = [
        Finding("ok" if sys.version_info[:2] == (3, 11) else "note", "python", sys.version.split()[0]),
        Finding("ok", "torch", torch.__version__),
        _device(),
        _bf16(),
    ]
    memory = psutil.virtual_memory()
    state = "ok" if memory.available > 4e9 else "note"
    found.append(Finding(state, "memory", f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"))
    found += remotes()
    free = shutil.disk_usage(".").free
    try:
        params = load_params(params_path)
    except OptogramError as error:
        return [*found, Finding("bad", str(params_path), str(error))]
    need = needed_bytes(params)
    found.append(_threads(params))
    found.append(cost(params))
    found.append(Finding("ok", str(params_path), f"valid; clips: {', '.join(params.clips)}"))
    state = "ok" if need * 2 < free else "bad" if need > free else "note"
    found.append(Finding(state, "disk", f"{free / 1e9:.1f} GB free; the run needs at least {need / 1e9:.2f} GB"))
    found += [Finding("bad", str(params_path), line) for line in missing_files(params)]
    return found


def remotes(folder: Path = Path(".dvc")) -> list[Finding]:
    """Of the DVC remotes: those that `dvc pull` does not verify, and secrets in the config that git has."""
    from dvc.config import Config, ConfigError

    if not (folder / "config").is_file():
        return []
    try:
        config: Any = Config(str(folder.resolve()), validate=False)
        committed = config.load_one("repo").get("remote", {})
    except ConfigError as error:
        return [Finding("bad", str(folder / "config"), str(error))]
    found = []
    for name, settings in sorted(config.get("remote", {}).items()):
        if str(settings.get("verify", "")).lower() not in ("true", "yes", "on", "1"):
            fix = f"dvc remote modify {name} verify true"
            found.append(Finding("note", f"remote {name}", f"`dvc pull` would believe corrupted objects: `{fix}`"))
        secrets = [option for option in sorted(committed.get(name, {})) if SECRET.search(option)]
        if PASSWORD_IN_URL.search(str(committed.get(name, {}).get("url", ""))):
            secrets.append("url")
        for option in secrets:
            found.append(Finding("bad", f"remote {name}", _moved(name, option)))
    return found


def _moved(name: str, option: str) -> str:
    unset = "" if option == "url" else f"`dvc remote modify --unset {name} {option}`, then "
    return (
        f"a secret, {option}, stands in .dvc/config, which git shares. {unset}"
        f"`dvc remote modify --local {name} {option} …` puts it into .dvc/config.local; change it if it was ever pushed"
    )


def needed_bytes(params: Params) -> int:
    """About how many bytes the run's artifacts take, as far as params tell: pixels, and contributions of trained CLIPs.

    Photographs without a limit and pretrained models are not counted; the writer itself refuses what does not fit.
    """
    total = 0
    for split in params.scenes.splits.values():
        total += split.count * 64 * 64 * 3
    images = {name: split.count for name, split in params.scenes.splits.items()}
    images |= {name: split.limit or 0 for name, split in params.photos.splits.items()}
    total += sum((split.limit or 0) * params.photos.size**2 * 3 for split in params.photos.splits.values())
    side = params.photos.size if params.photos.splits else 64
    for name in params.clips:
        training = params.train_clip.models.get(name)
        if training is None:
            continue  # the writer itself estimates and refuses, once the architecture is known
        floats = (
            training.layers * training.width + ((side // training.patch) ** 2 + training.layers + 3) * training.embed
        )
        total += sum(images[split] for split in params.contributions.splits) * floats * FLOAT
    return total


def cost(params: Params) -> Finding:
    """The CPU time that all stages of a run take here: as they last did, or as the table of costs has it."""
    plain = params.model_dump(mode="json")
    names = [
        "@".join(filter(None, (name, "-".join(instance.values()))))
        for name, (_, stage) in declared().items()
        for instance in stage.instances(plain)
    ]
    seconds = expected(names, calibration=calibrate())
    most = sorted(seconds, key=lambda name: -seconds[name])[:3]
    most_of = ", ".join(f"{name} {seconds[name]:,.0f} s" for name in most)
    return Finding("ok", "cost", f"about {sum(seconds.values()) / 60:,.0f} CPU-minutes; most: {most_of}")


def _threads(params: Params) -> Finding:
    """`threads` of params.yaml beside the cores that this process may use."""
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    if params.threads == "auto":
        return Finding("note", "threads", f"auto, on {cores} cores: another machine may give other bytes")
    if params.threads > cores:
        fit = f"{params.threads}, but there is a core for {cores} only"
        return Finding("note", "threads", f"{fit}: the same bytes, more slowly. `threads={cores}` gives other bytes")
    return Finding("ok", "threads", f"{params.threads} of {cores} cores")


def _device() -> Finding:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("ok", "device", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    return Finding("ok", "device", "cpu (no CUDA device; nothing needs one)")


def _bf16() -> Finding:
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return Finding("ok" if fast else "note", "bf16", "native" if fast else "emulated: training is slower")
