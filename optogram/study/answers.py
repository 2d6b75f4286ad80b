"""`optogram study analyse`, first half: the key of a study and the answers that its form saved, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optogram.errors import DataError, nearest
from optogram.study.form import AGES, ASKED, GENDERS, LONGEST

Rating = Annotated[int, Field(ge=1, le=5)]
Words = Annotated[str, Field(max_length=LONGEST)]
Question = Literal["realistic", "close", "class", "better"]
"""The names of `optogram.study.form.QUESTIONS`."""
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class About(_Strict):
    """What a participant told of themselves; "" is nothing."""

    age: str = ""
    gender: str = ""


class Answers(_Strict):
    """One participant's answers, by the opaque names of the pictures; what was left out is not there.

    pairs: the questions in which a picture was preferred to the other one of its pair.
    """

    optogram_study: Literal[1]
    form: str
    participant: int
    about: About = About()
    name: dict[str, Words] = {}
    word: dict[str, Rating] = {}
    references: dict[str, Rating] = {}
    pairs: dict[str, list[Question]] = {}


class Picture(_Strict):
    """What a picture is. Of a counterfactual, `target` is the image that was changed, and there is no seed."""

    target: str
    method: str
    seed: int | None = None
    status: str


class Shown(_Strict):
    """The pictures that one participant was shown in each part."""

    name: list[str] = []
    word: list[str] = []
    references: list[str] = []
    pairs: list[str] = []


class Key(_Strict):
    """The key that lies beside a form."""

    optogram_study: Literal[1]
    form: str
    studied: str
    seed: int
    methods: list[str]
    inputs: list[str]
    images: dict[str, Picture]
    shown: list[Shown]


@dataclass(frozen=True)
class Answered:
    """The answers to one form, ordered by participant."""

    key: Key
    answers: list[Answers]


def read_answers(paths: Sequence[Path], key: Path) -> Answered:
    """Read a study's key and the answers in `paths`: files, or folders of which every .json but the key is read.

    Raises DataError for what is no such file, for answers to another form, pictures that this participant was not
    shown, ratings that are not 1 to 5, and two files of one participant; each names the file and the key in it.
    """
    known = _parsed(Key, key, "the key of a study, as `optogram study make` writes it")
    for opaque in (opaque for shown in known.shown for part in ASKED for opaque in getattr(shown, part)):
        if opaque not in known.images:
            raise DataError(f"{key}: shown: {opaque!r} is not among its images. Make the study again.")
    files = _files(paths, key)
    if not files:
        raise DataError(f"No answers in {', '.join(map(str, paths))}. Expected the .json files that the form saves.")
    found: dict[int, tuple[Path, Answers]] = {}
    for file in files:
        answers = _parsed(Answers, file, "answers, as the form of a study saves them")
        _check_form(answers, file, known, key)
        if answers.participant in found:
            raise DataError(
                f"{file}: participant {answers.participant} has answered in {found[answers.participant][0]} already. "
                "Keep one of the two files."
            )
        _check_answers(answers, file, known)
        found[answers.participant] = file, answers
    return Answered(known, [found[number][1] for number in sorted(found)])


def _files(paths: Sequence[Path], key: Path) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [one for one in sorted(path.glob("*.json")) if one.resolve() != key.resolve()]
        else:
            found.append(path)
    # a file that is named and also lies in a named folder is one file
    return list({file.resolve(): file for file in found}.values())


def _parsed(model: type[Model], path: Path, expected: str) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Expected {expected}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        found = "" if isinstance(first["input"], dict | bytes) else f" (found {first['input']!r:.80})"
        at = f"{where}: " if where else ""
        raise DataError(f"{path}: {at}{first['msg']}{found}. Expected {expected}.") from None


def _check_form(answers: Answers, file: Path, key: Key, key_path: Path) -> None:
    if answers.form != key.form:
        raise DataError(
            f"{file}: form: {answers.form!r}, but {key_path} is the key of form {key.form!r}. Pass the key that was "
            "written with the form that these people answered."
        )
    if not 1 <= answers.participant <= len(key.shown):
        raise DataError(f"{file}: participant: {answers.participant}, expected 1 to {len(key.shown)}.")


def _check_answers(answers: Answers, file: Path, key: Key) -> None:
    for field, options in (("age", AGES), ("gender", GENDERS)):
        if (told := getattr(answers.about, field)) and told not in options:
            raise DataError(f"{file}: about.{field}: {told!r:.80} is none of {', '.join(options)}.")
    shown = key.shown[answers.participant - 1]
    for part in ASKED:
        there = getattr(shown, part)
        for opaque in getattr(answers, part):
            if opaque not in there:
                raise DataError(
                    f"{file}: {part}.{opaque:.80}: participant {answers.participant} was not shown this picture."
                    f"{nearest(opaque, there)} Was the file edited?"
                )
    chosen: set[tuple[str, str]] = set()
    for opaque, questions in answers.pairs.items():
        for question in questions:
            asked = key.images[opaque].target, question
            if asked in chosen:
                raise DataError(
                    f"{file}: pairs.{opaque}: {question!r} was answered twice of one pair. Was the file edited?"
                )
            chosen.add(asked)
