"""``submission.json``: who submits which method, made where, under which licence."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedbench.characters import shown, unfit
from fedbench.submissions import SubmissionError
from fedbench.task import Name

FORM = "submission.json"
FORM_VERSION = 1
LARGEST_FORM = 1_000_000  # bytes
LINE, NOTES, AUTHORS, PACKAGES = 200, 10_000, 50, 2_000
"""Most characters of a line and of the notes; most authors, and packages of the environment."""


def _fit(value: str) -> str:
    if name := unfit(value):
        raise ValueError(f"{name} has no place in it")
    return value


def _fit_lines(value: str) -> str:
    if name := unfit(value, "\n\t"):
        raise ValueError(f"{name} has no place in it")
    return value


_MEANT: dict[str, str] = {}


def _like(pattern: str, meant: str, max_length: int | None = None) -> Any:
    """Return a field of a pattern, and remember in words what the pattern means."""
    _MEANT[pattern] = meant
    return Field(pattern=pattern, max_length=max_length)


Line = Annotated[str, Field(min_length=1, max_length=LINE), AfterValidator(_fit)]
Distribution = Annotated[
    str, _like(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$", "the name of a package, of 64 characters at most")
]
Release = Annotated[str, _like(r"^[0-9]{1,6}(\.[0-9]{1,6}){0,4}$", "a released version, as 1.2 or 0.10.3")]
Sha256 = Annotated[str, _like(r"^[0-9a-f]{64}$", "a SHA-256, 64 hexadecimal digits")]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[0-9+:.Z-]{0,20}$")]
Package = Annotated[str, _like(r"^[A-Za-z0-9._-]{1,100}==[A-Za-z0-9._+!-]{1,100}$", "an installed NAME==VERSION")]
Url = Annotated[
    str,
    _like(
        r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/?#=%+@&,;:-]*)?$",
        "an address that begins with https:// or http://",
        max_length=LINE,
    ),
]


class Submission(BaseModel):
    """What an archive says of itself.

    Parameters
    ----------
    schema_version : int
        Of this form.
    method : str
        The name under which the method is registered.
    distribution, version : str
        The package that provides it; a released version, which is numbers and dots.
    entry_point : str
        ``module:Class``, as the package declares it. It is written down, and never imported by a check.
    licence : str
        Of the package.
    url : str
        Where its source is; http or https.
    authors : tuple of str
        One or more.
    contact : str, optional
        How to reach them.
    notes : str
        Plain text.
    suite : str
        The suite that was run.
    python, platform : str
        Where the archive was packed.
    environment : tuple of str
        ``name==version`` of every installed distribution there.
    created : str
        When the newest of its records was begun (UTC): packing the same records again gives the same bytes.
    files : mapping of str to str
        SHA-256 of every other member of the archive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1]
    method: Name
    distribution: Distribution
    version: Release
    entry_point: Annotated[
        str, _like(r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$", "module:Class", max_length=LINE)
    ]
    licence: Line
    url: Url
    authors: Annotated[tuple[Line, ...], Field(min_length=1, max_length=AUTHORS)]
    contact: Line | None = None
    notes: Annotated[str, Field(max_length=NOTES), AfterValidator(_fit_lines)] = ""
    suite: Name
    python: Line
    platform: Line
    environment: Annotated[tuple[Package, ...], Field(max_length=PACKAGES)]
    created: Time
    files: dict[str, Sha256]

    @property
    def provider(self) -> str:
        """Distribution and version, as they stand beside a row."""
        return f"{self.distribution} {self.version}"

    @property
    def file_name(self) -> str:
        """What its archive is called."""
        return f"{self.method}-{self.version}.fedbench.zip"


def explained(error: ValidationError) -> str:
    """Return what is wrong with a form, field by field, without what was written there."""
    lines = []
    for item in error.errors(include_input=False, include_url=False)[:10]:
        where = ".".join(shown(str(part), 60) for part in item["loc"]) or "the file"
        meant = _MEANT.get(item.get("ctx", {}).get("pattern", ""))
        lines.append(f"{where}: {f'it is not {meant}' if meant else shown(item['msg'].removeprefix('Value error, '))}")
    return "; ".join(lines)


def read(content: bytes) -> Submission:
    """Return the form that stands in some bytes.

    Raises
    ------
    SubmissionError
        It is no JSON, a field is missing, unknown, too long or holds what has no place there.
    """
    if len(content) > LARGEST_FORM:
        raise SubmissionError(f"{FORM} has {len(content):,} bytes, more than {LARGEST_FORM:,}", "pack it again")
    try:
        return Submission.model_validate_json(content)
    except ValidationError as error:
        raise SubmissionError(
            f"{FORM}: {explained(error)}", "say it otherwise and make the archive with `fedbench submit pack`"
        ) from None


def release(version: str) -> tuple[int, ...]:
    """Return a released version as numbers that can be compared.

    Examples
    --------
    >>> release("1.10") > release("1.9"), release("1.0") == release("1")
    (True, True)
    """
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def same_distribution(first: str, second: str) -> bool:
    """Say whether two names are those of one distribution: case, dots, hyphens and underscores do not tell them apart.

    Examples
    --------
    >>> same_distribution("My_Method", "my-method")
    True
    """
    plain = [re.sub(r"[-_.]+", "-", name).lower() for name in (first, second)]
    return plain[0] == plain[1]
