"""Clients of all four protocols that come back as stock ones do, and check everything that they receive.

Each keeps what it shows of its topics in `Shown`, counts its reconnects and refusals in `Record`, and has ended for
good when `record.ended` is not empty. Thousands of them run in one process.
"""
