"""Keep segments, pairs, preferences and undos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "segments",
        sa.Column("segment_id", sa.String(32), nullable=False),
        sa.Column("policy", sa.String(63), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("episode_id", sa.String(128), nullable=False),
        sa.Column("start_step", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("observation_shape", sa.JSON(), nullable=False),
        sa.Column("observations", sa.LargeBinary(), nullable=False),
        sa.Column("actions", sa.LargeBinary(), nullable=False),
        sa.Column("rewards", sa.LargeBinary(), nullable=False),
        sa.Column("frames_per_s", sa.Float(53), nullable=False),
        sa.Column("clip_sha256", sa.String(64), nullable=False),
        sa.Column("split", sa.String(8), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("segment_id", name="pk_segments"),
    )
    op.create_index("ix_segments_policy_split", "segments", ["policy", "split"])
    op.create_index("ix_segments_policy_episode_id", "segments", ["policy", "episode_id"])
    op.create_table(
        "pairs",
        sa.Column("number", ROW_NUMBER, nullable=False),
        sa.Column("pair_id", sa.String(32), nullable=False),
        sa.Column("policy", sa.String(63), nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("left_segment_id", sa.String(32), nullable=False),
        sa.Column("right_segment_id", sa.String(32), nullable=False),
        sa.Column("low_segment_id", sa.String(32), nullable=False),
        sa.Column("high_segment_id", sa.String(32), nullable=False),
        sa.Column("split", sa.String(8), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["left_segment_id"], ["segments.segment_id"], name="fk_pairs_left_segment_id_segments"
        ),
        sa.ForeignKeyConstraint(
            ["right_segment_id"], ["segments.segment_id"], name="fk_pairs_right_segment_id_segments"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_pairs"),
        sa.UniqueConstraint(
            "labeler",
            "low_segment_id",
            "high_segment_id",
            name="uq_pairs_labeler_low_segment_id_high_segment_id",
        ),
        sa.UniqueConstraint("pair_id", name="uq_pairs_pair_id"),
    )
    op.create_index("ix_pairs_policy", "pairs", ["policy"])
    op.create_table(
        "preferences",
        sa.Column("number", ROW_NUMBER, nullable=False),
        sa.Column("preference_id", sa.String(32), nullable=False),
        sa.Column("pair_id", sa.String(32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(63), nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("choice", sa.String(8), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=True),
        sa.Column("response_time_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["pair_id"], ["pairs.pair_id"], name="fk_preferences_pair_id_pairs"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_preferences"),
        sa.UniqueConstraint("labeler", "request_id", name="uq_preferences_labeler_request_id"),
        sa.UniqueConstraint("pair_id", "round", name="uq_preferences_pair_id_round"),
        sa.UniqueConstraint("preference_id", name="uq_preferences_preference_id"),
    )
    op.create_index("ix_preferences_policy_number", "preferences", ["policy", "number"])
    op.create_table(
        "undos",
        sa.Column("number", ROW_NUMBER, nullable=False),
        sa.Column("preference_id", sa.String(32), nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["preference_id"],
            ["preferences.preference_id"],
            name="fk_undos_preference_id_preferences",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_undos"),
        sa.UniqueConstraint("labeler", "request_id", name="uq_undos_labeler_request_id"),
        sa.UniqueConstraint("preference_id", name="uq_undos_preference_id"),
    )


def downgrade() -> None:
    """Drop them, and every label with them."""
    for table in ("undos", "preferences", "pairs", "segments"):
        op.drop_table(table)
