"""Room flows: Prefect's settings: where its server's address stands, and pointing Prefect's client at a server."""

import os
import re
import tomllib
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.listener import is_loopback
from optogram.errors import FlowError
from optogram.progress import say

KEY = "PREFECT_API_URL"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDS_NONE = "`dvc repro` needs no Prefect."
# Proxies that Prefect's client cannot use: out of its sight while it talks to this machine, kept for the stages.
SET_ASIDE: dict[str, str] = {}


@dataclass(frozen=True)
class Address:
    """The API address in Prefect's settings: its `url`, the place it comes from ("" is the environment), its `undo`."""

    url: str
    place: str
    undo: str

    def __str__(self) -> str:
        place = f" of {self.place}" if self.place else ""
        return f"{KEY}{place} is {shown(self.url)}"


def configured() -> Address | None:
    """The API address that Prefect's own settings have, if any: environment, files of this folder, active profile.

    Raises FlowError, with the file, if Prefect cannot read its settings.
    """
    url = current().api.url
    return Address(str(url).rstrip("/"), *_source()) if url else None


def shown(url: str) -> str:
    """An address as it may be printed: without a password in it."""
    return re.sub(r"://[^/?#]*@", "://", url, count=1)


def point(url: str) -> None:
    """Make Prefect's client talk to this server, here and in children, for the rest of this process.

    Loopback is asked directly whatever proxies there are. A remote server is still reached through them.
    """
    os.environ[KEY] = url
    if is_loopback(url):
        _directly(urlsplit(url).hostname or "")
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()  # Prefect has read its settings once, when it was imported


def reach(address: Address) -> None:
    """FlowError unless Prefect's own client, with its keys, certificates and proxies, gets an answer."""
    point(address.url)
    import httpx
    from prefect import __version__ as version
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client

    refusal = f"{address}, but no Prefect server answers there"
    fix = f"Start it, or {address.undo}. {NEEDS_NONE}"
    try:
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/flow_runs/filter", json={"limit": 1})
            if not isinstance(answer.json(), list):
                raise ValueError("this is not Prefect's API, whose address ends in /api")
            client.raise_for_api_version_mismatch()
            if client.server_type != ServerType.CLOUD and (theirs := client.api_version()) != version:
                say(f"{address}: Prefect {theirs} runs there, and this is {version}.")
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise FlowError(
                f"{address}, and the server there refuses us ({status}). Prefect Cloud wants PREFECT_API_KEY "
                f"(`prefect cloud login`), a server of your own PREFECT_API_AUTH_STRING. Set it, or {address.undo}. "
                f"{NEEDS_NONE}"
            ) from None
        raise FlowError(f"{refusal}: status {status}; Prefect's API ends in /api. {fix}") from None
    except Exception as error:  # of httpx, of TLS, of Prefect: whatever it is, it is said with the address
        said = " ".join(str(error).split()) or type(error).__name__
        raise FlowError(f"{refusal} ({said}). {fix}") from None


def current() -> Any:
    """Prefect's settings as their sources have them now; FlowError, with the file, if they cannot be read."""
    for path in (Path("prefect.toml"), Path("pyproject.toml"), _profiles()):
        try:
            if path.exists():
                tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FlowError(
                f"Prefect reads its settings from {path}, and cannot: {error}. Mend the file, or move it away. "
                f"{NEEDS_NONE}"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is said in words of ours
            from prefect.settings import Settings

            return Settings()
    except Exception as error:  # of pydantic and of Prefect: whatever it is, it is said with the places to look at
        said = " ".join(str(error).split())
        raise FlowError(
            f"Prefect cannot use its settings: {said[:300]} They come from PREFECT_… variables, .env, prefect.toml and "
            f"pyproject.toml of this folder, and {_profiles()}: mend what is named. {NEEDS_NONE}"
        ) from None


def _profiles() -> Path:
    """The file of Prefect's profiles, known without Prefect: it cannot be imported while the file is damaged."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    return Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")


def _source() -> tuple[str, str]:
    """Where the address stands, in Prefect's order, and what takes it away."""
    import dotenv

    for name, value in os.environ.items():
        if name.upper() == KEY and value:
            return "", f"unset it (`unset {name}`)"
    if Path(".env").is_file() and any(name.upper() == KEY for name in dotenv.dotenv_values(".env")):
        return f"{Path('.env').resolve()}", "take that line out of .env"
    for file, table in (("prefect.toml", "api"), ("pyproject.toml", "tool.prefect.api")):
        found: Any = tomllib.loads(Path(file).read_text()) if Path(file).is_file() else {}
        for part in table.split("."):
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
        if isinstance(found, Mapping) and found.get("url"):
            return f"{Path(file).resolve()}", f"take `url` out of its table [{table}]"
    profiles = tomllib.loads(_profiles().read_text()) if _profiles().exists() else {}
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return f"Prefect's active profile {active!r} in {_profiles()}", f"`prefect config unset {KEY}`"


def _directly(host: str) -> None:
    """Keep `host` and loopback out of the proxies of this process and its children; the user's own exceptions stay."""
    import httpx

    hosts = dict.fromkeys((*LOOPBACK, host))
    values = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    for name, value in values.items():
        # an unset name has the other's: programs differ in which of the two they read
        own = next((one for one in (value, *values.values()) if one is not None), "")
        entries = [entry.strip() for entry in own.split(",") if entry.strip()]
        os.environ[name] = ",".join(entries + [one for one in hosts if one not in entries and "*" not in entries])
    try:
        httpx.Client().close()
    except (ImportError, ValueError):  # socks:// and the like fail even where no proxy is asked
        usable = ("http://", "https://")
        for name, value in list(os.environ.items()):
            kind = name.lower().removesuffix("_proxy")
            if kind in ("http", "https", "all") and "://" in value and not value.startswith(usable):
                SET_ASIDE[name] = os.environ.pop(name)


def opened(url: str, seconds: float = 5) -> bytes:
    """What a server answers to GET; loopback is asked directly. OSError or ValueError if it does not."""
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=seconds) as answer:
            return answer.read(1_000_000)
    except HTTPException as error:
        raise ValueError(f"{url} does not speak HTTP") from error
