"""Runs migrations on the connection that `services.feedback.database` hands over."""

from __future__ import annotations

from alembic import context

from services.feedback.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
