"""A real etcd that a test may break, up to the loss of all its data."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from pathlib import Path

from pollcast.services.local.embedded import program
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.process.settings import EtcdSettings


def restore(server: EtcdServer, snapshot: Path) -> None:
    """Replace the data of each member, which must not run, by the snapshot."""
    for member in server.members:
        shutil.rmtree(member.data_dir)
        options = [part for part in member.program if part.startswith(("--name=", "--data-dir=", "--initial-"))]
        subprocess.run(
            [program("etcdctl"), "snapshot", "restore", str(snapshot), *options], check=True, capture_output=True
        )


class BreakableEtcd:
    """An etcd of one member. Break it with the methods of `server`, or with `lose_everything`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = EtcdServer.start(folder / "1", fsync=False)
        self.settings = EtcdSettings(etcd=self.server.endpoints)

    def lose_everything(self, *, same_cluster_id: bool) -> None:
        """Kill it and start it empty at the same address. A cluster's id derives from its peers' addresses."""
        self.server.kill()
        if same_cluster_id:
            shutil.rmtree(self.server.members[0].data_dir)
            self.server.restart()
        else:
            port = int(self.server.endpoint.rpartition(":")[2])
            self.server = EtcdServer.start(self._folder / "2", wanted_port=port, fsync=False)

    def save(self) -> None:
        """Save a snapshot of the data, as an operator does."""
        self.server.etcdctl("snapshot", "save", str(self._folder / "snapshot"))

    def restore(self) -> None:
        """Kill it, restore the snapshot and start it at the same addresses: its cluster's id stays the same."""
        self.server.kill()
        restore(self.server, self._folder / "snapshot")
        self.server.restart()

    def metric(self, name: str) -> float:
        """Return the sum of a metric of etcd; `name` is the beginning of its lines, which may include labels."""
        with urllib.request.urlopen(f"http://{self.server.endpoint}/metrics") as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def close(self) -> None:
        """Kill it."""
        self.server.kill()
