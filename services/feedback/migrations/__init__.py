"""The tables' history, oldest first, in versions/; run at start-up by `database.migrate`.

Revisions are written by hand; a test says what one lacks against `schema`.
"""
