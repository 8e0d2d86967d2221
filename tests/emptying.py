"""How the tables are emptied behind a test that committed: what was filled, and nothing else.

Django truncates every table, which on PostgreSQL makes hundreds of files anew, and then writes content types
and permissions again. Here rows are deleted where there are any, and those two tables are left as they are.
"""

from __future__ import annotations

from django.core.management.color import no_style
from django.db import connection, transaction
from django.test import TransactionTestCase

SAME_FOR_ALL = {"django_content_type", "auth_permission"}  # written with the tables; no test changes them
DELETE_ROWS = """
DO $$
DECLARE one text;
DECLARE is_filled boolean;
BEGIN
    FOREACH one IN ARRAY ARRAY[{names}] LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', one) INTO is_filled;
        IF is_filled THEN EXECUTE format('DELETE FROM %I', one); END IF;
    END LOOP;
END $$
"""


def empty_tables(case: TransactionTestCase) -> None:
    """In place of `TransactionTestCase._fixture_teardown`."""
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    tables = sorted(set(names) - SAME_FOR_ALL)
    if connection.vendor == "postgresql":
        _delete_rows(tables)
    else:
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))


def _delete_rows(tables: list[str]) -> None:
    """All at once and without asking who refers to whom. A request that came late is waited for."""
    quoted = ", ".join(connection.ops.quote_name(table) for table in tables)
    names = ", ".join(f"'{table}'" for table in tables)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(DELETE_ROWS.format(names=names))
