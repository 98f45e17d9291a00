"""The lowest versions that CI runs with."""

import pytest

from scripts.lowest_versions import lowest


def test_the_lowest_version_is_read_from_each_requirement_of_all_users():
    requirements = ["torch>=2.12", "hydra-core<1.4,>=1.3.4", 'tensorboard>=2.20; extra == "tensorboard"']
    assert list(lowest(requirements)) == ["torch==2.12", "hydra-core==1.3.4"]
    with pytest.raises(ValueError, match="numpy: states no lowest version"):
        list(lowest(["numpy"]))
