import json
import os
import re
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "experiments" / "cluster-local.yaml"
COMMAND_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
GROUP_PLACEHOLDER = "sg-EDIT-ME"
# Stand-ins for ssh and rsync: note the call, answer what the launcher asks.
SSH = """#!/bin/sh
for last; do :; done
printf 'ssh %s\\n' "$(printf '%s' "$last" | tr '\\n' ' ')" >> "$CALLS"
"""
RSYNC = """#!/bin/sh
printf 'rsync %s\\n' "$*" >> "$CALLS"
"""


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.lower().startswith(f"{package}=="))


both = pytest.mark.parametrize("path", [AWS, LOCAL], ids=["aws", "local"])


@both
def test_matches_the_launchers_own_schema(path):
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(load(path), schema)


@both
def test_every_command_list_is_written_out(path):
    # Ray fills an absent list with its defaults, and those install a nightly build.
    config = load(path)
    for name in COMMAND_LISTS:
        assert isinstance(config[name], list), name
    commands = "\n".join(command for name in COMMAND_LISTS for command in config[name])
    assert "ray stop" not in commands
    assert "://" not in commands


@both
def test_dependencies_are_installed_from_the_pins(path):
    installs = [c for c in load(path)["setup_commands"] if "pip install" in c]
    assert installs
    for command in installs:
        assert "-c ~/prune-sweep/constraints.txt" in command
    assert pinned("ray").startswith("2.60.")
    assert "+cpu" not in pinned("torch")


@both
def test_only_files_of_the_project_and_the_token_are_copied(path):
    mounts = load(path)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert remote == f"~/prune-sweep/{local}"
        assert (ROOT / local).exists() or local == "README.md"
    packages = {"core", "orchestrator", "experiments", "pyproject.toml", "constraints.txt"}
    assert packages < set(mounts.values())


@both
def test_dashboard_on_loopback_and_token_on_everywhere(path):
    config = load(path)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert "0.0.0.0" not in command
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][0]


def test_head_trains_nothing_and_workers_are_spot_that_comes_and_goes():
    config = load(AWS)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < config["idle_timeout_minutes"] <= 15
    # A spot instance cannot be stopped.
    assert config["provider"]["cache_stopped_nodes"] is False


def test_every_node_has_a_group_of_its_own_choice_a_role_and_tags():
    config = load(AWS)
    # Rules given there would be added to one that opens port 22 to the world.
    assert "security_group" not in config["provider"]
    for node_type in config["available_node_types"].values():
        node = node_type["node_config"]
        assert node["SecurityGroupIds"] == [GROUP_PLACEHOLDER]
        assert node["IamInstanceProfile"]["Name"].startswith("prune-sweep-")
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        tagged = {s["ResourceType"]: s["Tags"] for s in node["TagSpecifications"]}
        for tags in tagged.values():
            assert {"Key": "project", "Value": "prune-sweep"} in tags
        assert tagged.keys() == {"instance", "volume"}


# `ray up` against EC2 that moto plays on loopback


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """An account with nothing in it, and a machine with stand-ins for ssh and rsync."""
    pytest.importorskip("moto.server", reason="needs moto, of the extra `test`")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    home, bin_dir = tmp_path / "home", tmp_path / "bin"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0" * 64)
    bin_dir.mkdir()
    for name, text in (("ssh", SSH), ("rsync", RSYNC)):
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(stat.S_IRWXU)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "HOME": str(home),
        "CALLS": str(tmp_path / "calls"),
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    server.stop()


def ray_up(config: dict, folder: Path) -> subprocess.CompletedProcess:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("ray")), "up", "-y", "--no-config-cache"]
    return subprocess.run(
        [*command, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=180
    )


def account(service: str):
    import boto3

    return boto3.client(service, region_name="us-west-2")


def instances() -> list[dict]:
    found = account("ec2").describe_instances()["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def set_up(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "experiments" / "aws_setup.py"), "--region", "us-west-2"]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)


def edited() -> dict:
    """cluster.yaml after its instructions were followed."""
    done = set_up("--bucket", "curves", "--allow-ssh", "203.0.113.7/32")
    match = re.search(r"\[(sg-\w+)\]", done.stdout)
    assert match is not None, done.stderr
    config = yaml.safe_load(AWS.read_text().replace(GROUP_PLACEHOLDER, match[1]))
    image = account("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
        node_type["node_config"]["ImageId"] = image
    for remote, local in list(config["file_mounts"].items()):
        if not local.startswith("~") and not (ROOT / local).exists():
            del config["file_mounts"][remote]
    return config


def test_unedited_file_starts_nothing(cloud):
    done = ray_up(load(AWS), cloud)
    assert done.returncode != 0
    assert "Failed to detect a security group" in done.stderr
    assert instances() == []
    assert not (cloud / "calls").exists()


@pytest.mark.parametrize("source", ["0.0.0.0/0", "10.0.0.0/8"])
def test_setup_refuses_to_open_ssh_to_many(cloud, source):
    done = set_up("--bucket", "curves", "--allow-ssh", source)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --allow-ssh {source}")


def test_setup_runs_again_but_does_not_pass_over_another_address(cloud):
    flags = ("--bucket", "curves", "--allow-ssh")
    first = set_up(*flags, "203.0.113.7/32")
    assert first.returncode == 0, first.stderr
    again = set_up(*flags, "203.0.113.7/32")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    other = set_up(*flags, "198.51.100.4/32")
    assert other.returncode == 1 and other.stdout == ""
    assert other.stderr.startswith("error: --allow-ssh 198.51.100.4/32: the group sg-")
    assert "lets in SSH from 203.0.113.7/32" in other.stderr and other.stderr.count("\n") == 1


def test_ray_up_makes_one_head_that_only_one_address_reaches(cloud):
    config = edited()
    done = ray_up(config, cloud)
    assert done.returncode == 0, done.stdout + done.stderr
    (head,) = instances()
    node = config["available_node_types"]["head"]["node_config"]
    assert head["InstanceType"] == node["InstanceType"]
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/prune-sweep-head")
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert (tags["project"], tags["ray-cluster-name"]) == ("prune-sweep", "prune-sweep")

    groups = {g["GroupId"]: g for g in account("ec2").describe_security_groups()["SecurityGroups"]}
    own = [group["GroupId"] for group in head["SecurityGroups"]]
    assert own == node["SecurityGroupIds"]
    assert not [g for g in groups.values() if g["GroupName"].startswith("ray-")]
    (ssh,) = [rule for rule in groups[own[0]]["IpPermissions"] if rule["IpProtocol"] != "-1"]
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert ssh["IpRanges"] == [{"CidrIp": "203.0.113.7/32"}]
    (inside,) = [rule for rule in groups[own[0]]["IpPermissions"] if rule["IpProtocol"] == "-1"]
    assert inside["IpRanges"] == []
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == own

    roles = {one["RoleName"] for one in account("iam").list_roles()["Roles"]}
    assert not any(name.startswith("ray-") for name in roles)
    check_order((cloud / "calls").read_text().splitlines(), config)


def check_order(calls: list[str], config: dict) -> None:
    """Files first, then the set-up in its order, then Ray; each once."""
    copies = [i for i, call in enumerate(calls) if call.startswith("rsync")]
    for remote in config["file_mounts"]:
        assert any(remote in calls[i] for i in copies), f"never copied: {remote}"
    commands = [*config["setup_commands"], *config["head_setup_commands"], "ray start --head"]
    places = []
    for command in commands:
        found = [
            i
            for i, call in enumerate(calls)
            if call.startswith("ssh") and squeeze(command) in squeeze(call)
        ]
        assert len(found) == 1, f"ran {len(found)} times: {command}"
        places += found
    assert max(copies) < places[0]
    assert places == sorted(places)
    start = squeeze(calls[places[-1]])
    assert "RAY_OVERRIDE_RESOURCES={CPU:0}" in start
    assert not any("nightly" in call or "ray-wheels" in call for call in calls)
    assert not any("raystop" in squeeze(call) for call in calls)


def squeeze(text: str) -> str:
    """Text without what quoting for a shell adds."""
    return re.sub(r"[\s'\"\\]", "", text)
