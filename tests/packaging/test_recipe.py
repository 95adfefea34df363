"""The key of an installation, and its commands."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.packaging import content_key, dockerfile, install_commands


@dataclass(frozen=True)
class Package:
    filename: str
    sha256: str


Inputs = tuple[str, list[Package], str, list[str], str]
PACKAGES = st.lists(st.builds(Package, st.text(), st.text()), max_size=4)
INPUTS = st.tuples(st.text(), PACKAGES, st.text(), st.lists(st.text(), max_size=3), st.text())


def key_of(inputs: Inputs) -> str:
    base, packages, platform, options, recipe = inputs
    return content_key(base, packages, platform=platform, options=options, recipe=recipe)


@given(INPUTS, INPUTS)
def test_keys_are_equal_exactly_when_everything_that_decides_is(first: Inputs, second: Inputs) -> None:
    assert (key_of(first) == key_of(second)) == (first == second)


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_can_move_from_one_part_into_the_next(base: str, name: str, sha256: str, extra: str) -> None:
    whole = content_key(base, [Package(name, extra + sha256)])
    assert (whole == content_key(base, [Package(name + extra, sha256)])) == (extra == "")
    assert (whole == content_key(base + extra, [Package(name, sha256)])) == (extra == "")


def test_the_order_of_packages_is_part_of_the_key() -> None:
    one, two = Package("a-1.tar.gz", "0" * 64), Package("b-1.tar.gz", "1" * 64)
    assert content_key("base", [one, two]) != content_key("base", [two, one])


def test_a_key_is_lasting() -> None:
    """Another key would install everything anew: change RECIPE if that is what is wanted."""
    key = content_key("base", [Package("a-1.tar.gz", "0" * 64)], recipe="1")
    assert key == "990a1cce088b8bb601d3bc3579a91d28cbad8417f7039825776c93788c55f86e"


def test_the_two_passes_are_those_of_vertex_ai() -> None:
    assert [" ".join(command) for command in install_commands("trainer-0.1.tar.gz")] == [
        "pip3 install --user --upgrade --force-reinstall --no-deps trainer-0.1.tar.gz",
        "pip3 install --user trainer-0.1.tar.gz",
    ]
    assert install_commands("t.whl", pip=("uv", "pip", "install"))[1] == ("uv", "pip", "install", "t.whl")


def test_the_dockerfile_says_what_a_build_does() -> None:
    uris = ["gs://bucket/dist/trainer-0.1.tar.gz", "/srv/a:b-2.whl"]
    assert (
        dockerfile("python:3.11", uris, ["connection:company"])
        == """\
FROM python:3.11
ENV PYTHONUSERBASE=/opt/customjob/packages
# Packages are looked for in connection:company; where uv is there, it takes the place of pip3.
COPY ["trainer-0.1.tar.gz", "/tmp/customjob/0/"]
RUN cd /tmp/customjob/0 && \\
    pip3 install --user --upgrade --force-reinstall --no-deps trainer-0.1.tar.gz && \\
    pip3 install --user trainer-0.1.tar.gz
COPY ["a:b-2.whl", "/tmp/customjob/1/"]
RUN cd /tmp/customjob/1 && \\
    pip3 install --user --upgrade --force-reinstall --no-deps a:b-2.whl && \\
    pip3 install --user a:b-2.whl
"""
    )
