"""How a release is made: nothing that comes from elsewhere runs beside the right to publish."""

import re

import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github/workflows/release.yml"


def test_only_pinned_actions_run_where_the_token_is():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {}
    build, pypi = workflow["jobs"]["build"], workflow["jobs"]["pypi"]
    assert build["permissions"] == {"contents": "read"}
    assert (pypi["permissions"], pypi["needs"]) == ({"id-token": "write"}, "build")
    assert not any("run" in step for step in pypi["steps"])
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in pypi["steps"])
    assert any("build==" in step.get("run", "") for step in build["steps"])
