"""The conformance suite: each kind of source gives what a poller relies on."""

import pytest

pytest.register_assert_rewrite("tests.support.mariadb")  # it is imported before pytest sees that it is a plugin
