"""Alembic's environment: only the application's metadata is compared, and only outside the schema of the extension."""

from alembic import context

from models import Base


def include_name(name, type_, _parent_names):
    return type_ != "schema" or name != "credits"


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # With schemas of your own beside public; without this line, Alembic looks at public alone.
    include_schemas=True,
    include_name=include_name,
)
with context.begin_transaction():
    context.run_migrations()
