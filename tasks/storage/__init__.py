"""Records in and out of DuckDB, and the schema they have there."""
