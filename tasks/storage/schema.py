"""The schema of the store: numbered scripts in migrations/, each run once in a transaction of its own."""

from pathlib import Path
from typing import Any

from tasks.errors import NewerSchemaError

MIGRATIONS = Path(__file__).parent / "migrations"


def list_migrations() -> list[Path]:
    """The scripts in order; the number of the last is the newest schema version."""
    return sorted(MIGRATIONS.glob("[0-9][0-9][0-9]_*.sql"))


def schema_version(connection: Any) -> int:
    """How many scripts a database has had, 0 for an empty one.

    Args:
        connection: an open DuckDB connection.
    """
    exists = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'schema_version'"
    if not connection.execute(exists).fetchall()[0][0]:
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0][0])


def refuse_newer_schema(version: int, path: Path) -> None:
    """Raise NewerSchemaError for a schema of a newer version of this program; `path` is where it came from."""
    newest = len(list_migrations())
    if version > newest:
        raise NewerSchemaError(
            f"{path} has schema version {version}, this version of kernel-nightly knows {newest}; "
            "upgrade kernel-nightly or choose another --save-dir"
        )


def migrate_schema(connection: Any, path: Path, newest: int | None = None) -> None:
    """Run the scripts that a database lacks, all or those up to number `newest`.

    Raises:
        NewerSchemaError: the database is of a newer version.
    """
    refuse_newer_schema(schema_version(connection), path)
    for number, script in enumerate(list_migrations()[:newest], start=1):
        if number <= schema_version(connection):
            continue
        connection.begin()
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)")
            connection.execute(script.read_text())
            connection.execute("INSERT INTO schema_version VALUES (?)", [number])
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
