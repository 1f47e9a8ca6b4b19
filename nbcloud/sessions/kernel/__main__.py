"""``python -m nbcloud.sessions.kernel -f CONNECTION_FILE``, which the host runs."""

from nbcloud.sessions.kernel import app  # not in here: __main__ is the user's namespace

app.main()
