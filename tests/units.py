"""What of `systemctl --user` the operations page needs, for a home folder of a test's own: run as a script.

It starts, stops and restarts the units in ~/.config/systemd/user as they say themselves: their commands, environment
and order. What systemd makes of the files is told by `systemd-analyze verify`.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

INHERITED = ("HOME", "PATH", "CUDA_VISIBLE_DEVICES", "COVERAGE_PROCESS_START")
"""Of the caller's environment, which a service of systemd does not see otherwise."""


def read_unit(path: Path) -> dict[str, list[str]]:
    """The values of each name, with the home folder in the place of %h."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value.replace("%h", os.environ["HOME"]))
    return found


def make_unit_environment(unit: dict[str, list[str]]) -> dict[str, str]:
    """What a unit's process sees."""
    told = [word for line in unit.get("Environment", []) for word in shlex.split(line)]
    for name in unit.get("EnvironmentFile", []):
        path = Path(name.removeprefix("-"))
        if path.exists() or not name.startswith("-"):
            told += path.read_text().split()
    tests = {
        name: value for name, value in os.environ.items() if name.startswith(("PREFECT_SERVER_", "PREFECT_WORKER"))
    }
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, **tests, **dict(word.split("=", 1) for word in told)}


def pid_file(name: str) -> Path:
    return Path(os.environ["HOME"]) / f"{name}.pid"


def start(name: str) -> None:
    """Start a unit, unless it runs, and wait until its ExecStartPost has ended."""
    if pid_file(name).exists():
        return
    unit = read_unit(Path(os.environ["HOME"]) / ".config" / "systemd" / "user" / f"{name}.service")
    environment, [folder] = make_unit_environment(unit), unit.get("WorkingDirectory", [os.environ["HOME"]])
    with pid_file(name).with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            shlex.split(*unit["ExecStart"]),
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    pid_file(name).write_text(str(process.pid))
    for command in unit.get("ExecStartPost", []):
        subprocess.run(shlex.split(command), env=environment, timeout=90, check=True)


def stop(name: str) -> None:
    """End a unit as KillMode=mixed does: its first process is asked, what is left then is killed."""
    if not pid_file(name).exists():
        return
    leader = int(pid_file(name).read_text())
    pid_file(name).unlink()
    os.kill(leader, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{leader}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in list_session(leader):
        os.kill(process, signal.SIGKILL)


def list_session(leader: int) -> list[int]:
    """Living processes of the session that a process began."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def main(arguments: list[str]) -> None:
    user, verb, *names = [argument for argument in arguments if argument != "--now"]
    if user != "--user":
        raise SystemExit("only units of the user are known here")
    actions = {"enable": [start], "start": [start], "stop": [stop], "restart": [stop, start], "daemon-reload": []}
    for name in names:
        for act in actions[verb]:
            act(name)


if __name__ == "__main__":
    main(sys.argv[1:])
