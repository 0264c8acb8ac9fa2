"""Messages refer to their parents without a cascade: SQLite ends one of a thousand levels by an error, and a long one takes very long."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INDEXES = ("chat_id", "parent_id", "state")


def upgrade() -> None:
    """Make the table anew with the same rows. Foreign keys stay enforced meanwhile, as nothing switches them off in a transaction."""
    _create_table("messages_0002")
    op.execute("INSERT INTO messages_0002 SELECT * FROM messages ORDER BY id")
    op.execute("UPDATE messages SET parent_id = NULL")  # else dropping the table would cascade
    op.drop_table("messages")
    op.rename_table("messages_0002", "messages")
    for column in INDEXES:
        op.create_index(op.f(f"ix_messages_{column}"), "messages", [column], unique=False)


def _create_table(name: str) -> None:
    """The table, under another name; SQLite renames its reference to itself with it."""
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.String(length=32), nullable=False),
        sa.Column("chat_id", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("finish", sa.String(length=16), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("new_tokens", sa.Integer(), nullable=False),
        sa.Column("error_english", sa.Text(), nullable=True),
        sa.Column("error_chinese", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("role in ('system', 'user', 'assistant')", name=op.f("ck_messages_role")),
        sa.CheckConstraint("state in ('writing', 'done', 'interrupted', 'error')", name=op.f("ck_messages_state")),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_messages_chat_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["parent_id"], [f"{name}.id"], name=op.f("fk_messages_parent_id"), deferrable=True, initially="DEFERRED"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("public_id", name=op.f("uq_messages_public_id")),
    )
