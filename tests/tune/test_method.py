from typing import get_args

from imprint.config.section import union_members, union_tags
from imprint.tune.adapter import METADATA
from imprint.tune.method import AdapterMethod, Method
from imprint.tune.section import AnySection


def test_every_method_has_a_section() -> None:
    tags = [tag for member in union_members(AnySection) for tag in union_tags(member)]
    assert sorted(tags) == sorted(get_args(Method))


def test_every_adapter_describes_itself() -> None:
    assert METADATA.keys() == set(get_args(AdapterMethod))
