"""A class on one machine: who may come in, what runs for them, and how much of it.

All that it needs lies in one folder, $DYNLIB_HUB or /srv/dynlib; see README.md beside this file.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
from people import hub, students, teachers

HUB = hub()
STATE, STUDENT = HUB / "state", HUB / "student"
CORES = 1
GIB = 3  # JupyterLab and a kernel with torch take 0.4; the most that a lecture declares is 1.2

c = get_config()

# Where it listens. TLS is the business of the web server in front; see README.md.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.ConfigurableHTTPProxy.command = [str(HUB / "proxy" / "node_modules" / ".bin" / "configurable-http-proxy")]

# Who may come in: the class list, with the passwords that people.py made. Nobody gets one by coming first.
c.JupyterHub.authenticator_class = "firstuseauthenticator.FirstUseAuthenticator"
c.FirstUseAuthenticator.dbm_path = str(STATE / "passwords.dbm")
c.FirstUseAuthenticator.create_users = False
c.Authenticator.allowed_users = students(HUB / "students.csv") | teachers()
c.Authenticator.admin_users = teachers()
c.Authenticator.allow_existing_users = False  # who is no longer on the list cannot log in again

# What survives when this process dies: who is logged in, and which servers run. They go on meanwhile.
c.JupyterHub.db_url = f"sqlite:///{STATE / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STATE / "cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(STATE / "proxy.pid")
c.JupyterHub.cleanup_servers = False


def settings(spawner: Any) -> str:
    """The folder of Jupyter's settings: only a teacher has the formgrader."""
    return str(HUB / "settings" / ("teacher" if spawner.user.name in teachers() else "student"))


# What runs for each: JupyterLab, from the environment that all share and nobody can write to
c.Spawner.cmd = [str(STUDENT / "bin" / "jupyterhub-singleuser")]
c.Spawner.default_url = "/lab"
c.Spawner.notebook_dir = "~"
c.Spawner.environment = {
    "DYNLIB_HUB": str(HUB),
    "JUPYTER_CONFIG_PATH": settings,
    "OMP_NUM_THREADS": str(CORES),  # torch would start a thread for each core of the machine
    "PATH": f"{STUDENT / 'bin'}:/usr/local/bin:/usr/bin:/bin",
}
c.Spawner.mem_limit, c.Spawner.cpu_limit = f"{GIB}G", CORES
c.Spawner.start_timeout = c.Spawner.http_timeout = 120  # seconds; it takes 5, but a class comes all at once
c.JupyterHub.concurrent_spawn_limit = 2 * (os.cpu_count() or 1)  # each start keeps a core busy
# Servers at a time: one for each GiB of the machine. Whoever comes then is told to try again later.
c.JupyterHub.active_server_limit = max(1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30)


def limited(spawner: Any) -> None:
    """Without systemd: one core, and so much memory for each process, though not for all of a student's together."""
    core = spawner.user.id % (os.cpu_count() or 1)
    spawner.cmd = ["taskset", "-c", str(core), "prlimit", f"--data={GIB * 2**30}", "--core=0", *c.Spawner.cmd]


if Path("/run/systemd/system").is_dir():
    c.JupyterHub.spawner_class = "systemdspawner.SystemdSpawner"
    c.SystemdSpawner.isolate_tmp = c.SystemdSpawner.isolate_devices = c.SystemdSpawner.disable_user_sudo = True
    c.SystemdSpawner.unit_extra_properties = {"TasksMax": "512"}  # threads; JupyterLab and three kernels have 100
else:
    c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
    c.Spawner.pre_spawn_hook = limited

# Whoever does nothing for an hour gives the memory back; it is looked at every five minutes. Files stay, kernels end.
c.JupyterHub.services = [
    {
        "name": "culler",
        "command": [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=3600", "--cull-every=300"],
    }
]
c.JupyterHub.load_roles = [
    {
        "name": "culler",
        "services": ["culler"],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
    }
]
