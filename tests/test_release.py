"""How a release is made: nothing that comes from elsewhere runs beside the right to publish."""

import re

import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github/workflows/release.yml"


def test_what_comes_from_elsewhere_runs_where_nothing_can_be_published():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    rights = {name: job["permissions"] for name, job in jobs.items()}
    reads, tokens = {"contents": "read"}, {"pypi": {"id-token": "write"}, "attach": {"contents": "write"}}
    assert rights == {"build": reads, "models": reads, **tokens}
    assert [jobs[name]["needs"] for name in tokens] == ["build", "models"]
    assert not any("run" in step for step in jobs["pypi"]["steps"])
    assert [step["run"].split()[:2] for step in jobs["attach"]["steps"] if "run" in step] == [["gh", "release"]]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.search(r"@[0-9a-f]{40}$", action) for action in used)
    assert any("build==" in step.get("run", "") for step in jobs["build"]["steps"])


def test_the_models_of_a_release_are_made_by_commands_that_there_are():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    lines = "\n".join(step.get("run", "") for step in jobs["models"]["steps"])
    assert ("fmnist fit --config configs/mlp.yaml" in lines, "fmnist export --output models/" in lines) == (True, True)
    (attach,) = (step["run"] for step in jobs["attach"]["steps"] if "run" in step)
    assert {name.rpartition("/")[2] for name in attach.split() if name.startswith("models/")} == {
        *re.search(r"for file in ([\w. ]+);", lines)[1].split()
    }
