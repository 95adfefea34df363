"""From anything to a job, in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.parser import DISPLAY_NAME, parse_all
from airflow_customjob.spec.problem import Problem, SpecError, errors
from airflow_customjob.spec.source import read
from airflow_customjob.spec.validator import validate


def load(
    source: object, *, display_name: str = DISPLAY_NAME, strict: bool = False, base: Path | None = None
) -> CustomJob:
    """Read a CustomJob in any dialect. Vertex AI's own rules are :func:`validate`'s and are not asked here.

    :param source: as for :func:`~airflow_customjob.spec.source.to_dict`.
    :param display_name: name of the job where the source is a bare CustomJobSpec.
    :param strict: take nothing that Vertex AI's REST API would not take.
    :param base: directory that a relative path starts from.
    :raises SpecError: with every problem that was found.
    """
    data, problems = read(source, base=base)
    reading = parse_all(data, display_name=display_name, strict=strict)
    problems += reading.problems
    if errors(problems):
        raise SpecError(problems)
    return reading.job


def check(
    source: object,
    *,
    display_name: str = DISPLAY_NAME,
    strict: bool = False,
    base: Path | None = None,
    amend: Callable[[CustomJob], list[Problem]] | None = None,
) -> tuple[CustomJob | None, list[Problem]]:
    """Read and validate together: all problems of both, errors first. Other parameters as for :func:`load`.

    :param amend: puts into the job, before it is validated, what stands elsewhere; gives the problems of that.
    :returns: the job, None if there is an error; the problems.
    """
    try:
        data, problems = read(source, base=base)
    except SpecError as error:
        return None, list(error.problems)
    reading = parse_all(data, display_name=display_name, strict=strict)
    problems += reading.problems
    if amend is not None and not errors(problems):
        problems += amend(reading.job)
    if not any(problem.rule == "kind" for problem in problems):
        problems += [problem for problem in validate(reading.job) if not _follows(problem.path, reading.lost)]
    problems.sort(key=lambda problem: problem.severity != "error")
    return (None if errors(problems) else reading.job), problems


def _follows(path: str, lost: frozenset[str]) -> bool:
    """Found only because what stands there, or around it, could not be read."""
    return any(path == cause or path.startswith((f"{cause}.", f"{cause}[")) for cause in lost if cause)
