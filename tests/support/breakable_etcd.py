"""A real etcd that loses its data on command."""

from __future__ import annotations

import shutil
from pathlib import Path

from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.process.settings import EtcdSettings


class BreakableEtcd:
    """An etcd of one member that the test may break by the verbs of `server`, or by this one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = EtcdServer.start(folder / "1", fsync=False)
        self.settings = EtcdSettings(etcd=self.server.endpoints)

    def lose_everything(self, *, same_cluster_id: bool) -> None:
        """Comes back empty at the same address. The cluster's id is made of the peers' addresses."""
        self.server.kill()
        if same_cluster_id:
            shutil.rmtree(self.server.members[0].data_dir)
            self.server.restart()
        else:
            port = int(self.server.endpoint.rpartition(":")[2])
            self.server = EtcdServer.start(self._folder / "2", wanted_port=port, fsync=False)

    def close(self) -> None:
        self.server.kill()
