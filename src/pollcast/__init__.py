"""Pollcast: live results from databases that cannot announce changes, polled once per distinct query in a cluster."""
