"""A real etcd that a test may break, up to the loss of all its data."""

from __future__ import annotations

import shutil
from pathlib import Path

from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.process.settings import EtcdSettings


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

    def close(self) -> None:
        """Kill it."""
        self.server.kill()
