"""The command `pollcast` as a module: `python -m pollcast`."""

from pollcast.services.cli.main import main

main()
