"""A live table in Streamlit: `streamlit run app.py`, beside the demo of `pollcast up`."""

import os

import streamlit as st

from pollcast_client import Client, Live, topic


@st.cache_resource
def client() -> Client:
    """Return the connection that all sessions of this server share."""
    return Client(os.environ.get("POLLCAST_URL", "http://127.0.0.1:4000"))


@st.cache_resource
def tellers(limit: int) -> Live:
    """Return the live result, which a thread keeps current between the runs of this script."""
    return client().live(topic("richest_tellers", limit=limit))


st.title("Richest tellers")
limit = st.slider("How many", 1, 40, 5)


@st.fragment(run_every=1.0)
def table() -> None:
    """Show the result as it is now; only this part of the page runs each second."""
    live = tellers(limit)
    live.first()
    now = live.change
    st.caption(now.status.reason or now.status.state)
    st.dataframe(now.to_pandas())


table()
