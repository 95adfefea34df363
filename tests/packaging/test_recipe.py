"""The key of an installation, and its commands."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.packaging import content_key, install_commands


@dataclass(frozen=True)
class Package:
    filename: str
    sha256: str


INPUTS = st.tuples(st.text(), st.lists(st.builds(Package, st.text(), st.text()), max_size=4), st.text())


def key_of(inputs: tuple[str, list[Package], str]) -> str:
    base, packages, recipe = inputs
    return content_key(base, packages, recipe=recipe)


@given(INPUTS, INPUTS)
def test_keys_are_equal_exactly_when_everything_that_decides_is(
    first: tuple[str, list[Package], str], second: tuple[str, list[Package], str]
) -> None:
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
