"""Does the chapter "On a cluster" of orchestrator/README.md work word for word?

    pip download -d WHEELS -c constraints.txt 'setuptools>=77,<83' torch .     # once
    python experiments/harnesses/try_local_cluster.py --wheels WHEELS

This machine plays those of the chapter. Each has namespaces of its own, with its own address, home,
/tmp and a real sshd. A bridge joins them; nothing leads out of it. So `ray up`, `ray job submit`
and `ray down` do what they do between machines, and touch no other Ray. Exit code 0 means: the
sweep's rows came back, and after `ray down` no Ray was left. Needs Linux, root, openssh-server,
rsync and iproute2.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
from namespaces import UNSHARE, environment, make_network, run, run_inside

ROOT = Path(__file__).resolve().parents[2]
NETWORK, USER = "192.0.2", "192.0.2.1"
HEAD, WORKERS = f"{NETWORK}.10", [f"{NETWORK}.11"]
CHOSEN = "--models facebook/opt-1.3b --use-gpu --cpus-per-worker 8"
"""The flags that the chapter sweeps with; `SMALL` takes their place here."""
SMALL = (
    "--methods magnitude sparsegpt --sparsities 0.5 0.7 --regimes oneshot finetune "
    "--finetune.tokens 8192 --cpus-per-worker 1 --max-concurrent-trials 1"
)
NODE = """
set -e
mount --bind "$1/home" /home
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/tmp" /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir /run/sshd
ip link set lo up
until ip link set eth0 up 2> /dev/null; do sleep 0.1; done
ip address add "$2/24" dev eth0
ip route add default via "$3"
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"""


def main() -> int:
    """Play the machines in namespaces of this process's own; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, required=True, help="wheels to install from")
    parser.add_argument("--work", type=Path, help="folder for the machines; by default temporary")
    flags = parser.parse_args()
    if (code := run_inside()) is not None:
        return code
    with ExitStack() as stack:
        new = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cluster-")
        work = flags.work or Path(stack.enter_context(new))
        run("mount", "--bind", str(flags.wheels.resolve()), "/mnt")
        (work / "tmp").mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", str(work / "tmp"), "/tmp")
        make_network(USER)
        make_keys(work)
        for index, address in enumerate([HEAD, *WORKERS]):
            start_machine(work, index, address)
        return follow(work)


def make_keys(work: Path) -> None:
    """Make the user's key and the machines' host key."""
    for name in ("user", "host"):
        (work / name).unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / name))


def start_machine(work: Path, index: int, address: str) -> None:
    """Start a machine with an address, a home, and an sshd that lets the user in."""
    place = work / f"machine-{index}"
    home = place / "home" / "node"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place / "tmp", ignore_errors=True)
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    shutil.copy(work / "user.pub", home / ".ssh" / "authorized_keys")
    # Debian's own python3 cannot make virtual environments.
    (home / ".bashrc").write_text(f"export PATH={Path(sys.base_prefix) / 'bin'}:$PATH\n")
    passwd = Path("/etc/passwd").read_text()
    (place / "passwd").write_text(
        re.sub(r"^(root:.*):[^:]*:([^:]*)$", r"\1:/home/node:/bin/bash", passwd, flags=re.M)
    )
    settings = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/mnt",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000",
        # Two machines share the cores of one, and Ray gives up on a slow start after half a minute.
        "RAY_agent_register_timeout_ms": "600000",
    }
    known = " ".join(f"{name}={value}" for name, value in settings.items())
    (place / "sshd_config").write_text(
        f"ListenAddress {address}\nHostKey {work / 'host'}\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\n"
        f"AcceptEnv LC_*\nSetEnv {known}\nSubsystem sftp internal-sftp\n"
    )
    log = open(place / "sshd.log", "w")
    command = [*UNSHARE, "sh", "-c", NODE, "sh", str(place), address, USER]
    node = subprocess.Popen(command, stderr=log)
    time.sleep(0.5)
    run("ip", "link", "add", f"port{index}", "type", "veth", "peer", "name", f"far{index}")
    run("ip", "link", "set", f"port{index}", "master", "lan", "up")
    run("ip", "link", "set", f"far{index}", "name", "eth0", "netns", str(node.pid))


def edited(work: Path) -> Path:
    """Write cluster-local.yaml with its lines marked EDIT edited; return its path."""
    config = yaml.safe_load((ROOT / "experiments" / "cluster-local.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": WORKERS}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": str(work / "user")}
    path = work / "cluster-local.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def chapter() -> list[str]:
    """Return the commands of the chapter, without their comments."""
    text = (ROOT / "orchestrator" / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## On a cluster\n")[1].split("\n## ")[0]
    block = re.search(r"(?m)(?:^    .*\n)+", section)
    assert block is not None
    return [re.sub(r"\s\s+#.*", "", line.strip()) for line in block[0].splitlines()]


def follow(work: Path) -> int:
    """Run the chapter's commands in one shell and check what came back; return the exit code."""
    out = work / "shared" / "sweep"
    lines = ["set -ex"]
    for command in chapter():
        if command.startswith("export CLUSTER="):
            # The reader chooses this; the other lines are the chapter's own.
            lines.append(f"export CLUSTER={edited(work)} OUT={out} RAY_UP_enable_autoscaler_v2=0")
        elif "aws_setup.py" not in command:
            lines.append(command.replace(CHOSEN, SMALL))
        if command.startswith("ray dashboard"):
            lines.append("until (exec 3<>/dev/tcp/127.0.0.1/8265) 2> /dev/null; do sleep 1; done")
    home = work / "user-home"
    (home / ".ray").mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = work / "chapter.sh"
    script.write_text("\n".join(lines) + "\n")
    fetched = ROOT / "curves.html"
    assert not fetched.exists(), f"{fetched} would be overwritten"
    start = time.monotonic()
    try:
        done = subprocess.run(
            ["bash", str(script)], cwd=ROOT, env=environment(str(home), PATH=path)
        )
        size = fetched.stat().st_size if fetched.exists() else 0
    finally:
        fetched.unlink(missing_ok=True)
    print(f"the chapter took {time.monotonic() - start:.0f} s, exit code {done.returncode}")
    # `ray down` stops only the head here. A worker node gives up after a minute and leaves. Its two
    # agents then try to tell the head, and leave a minute later: 125 s were measured.
    start = time.monotonic()
    left = wait_for_no_ray(180)
    waited = time.monotonic() - start
    print(f"processes of Ray left {waited:.0f} s after `ray down`: {len(left)} {left[:3]}")
    rows = pq.read_table(out / "results.parquet").to_pylist()
    for row in rows:
        print(
            f"{row['method']:<10} {row['regime']:<9} {row['sparsity']:.1f} "
            f"{row['perplexity']:8.2f} {row['status']}"
        )
    whole = len(rows) == 10 and all(row["status"] == "done" for row in rows)
    print(f"fetched curves.html: {size:,} bytes; {len(rows)} rows, all done: {whole}")
    return 0 if done.returncode == 0 and whole and size > 10_000 and not left else 1


def wait_for_no_ray(seconds: float) -> list[str]:
    """Wait until no process of Ray is left, at most so long; return the ones that are."""
    end = time.monotonic() + seconds
    while True:
        commands = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
        left = [one[:60] for one in commands if re.search(r"raylet|gcs_server|ray::", one[:60])]
        if not left or time.monotonic() > end:
            return left
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
