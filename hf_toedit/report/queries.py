"""SQL for questions about all the edits of a dataset: for DuckDB, and for the SQL console of a dataset on the Hub."""

from __future__ import annotations


def queries(table: str = "train", stats_column: str = "toedit") -> dict[str, str]:
    """Queries over the `toedit` column, by what they answer.

    table: what to read: a split, as the Hub's SQL console names its tables, or a quoted pattern of Parquet files, such
        as "'edited/data/*.parquet'". stats_column: the column with the edits.
    """
    column = '"' + stats_column.replace('"', '""') + '"'
    edits = f"(SELECT unnest({column}.edits) AS edit FROM {table})"
    return {
        "Rows by status": f"SELECT {column}.status, count(*) AS num_rows\nFROM {table}\nGROUP BY ALL ORDER BY ALL;",
        "Rates": (
            f"SELECT sum({column}.num_changed) / sum({column}.num_tokens) AS changed_rate,\n"
            f"       sum({column}.num_visited_eligible) / sum({column}.num_visited) AS eligible_rate\n"
            f"FROM {table};"
        ),
        "Every replacement, most frequent first": (
            "SELECT edit.old, edit.new, count(*) AS num_edits\n"
            f"FROM {edits}\n"
            "GROUP BY ALL ORDER BY num_edits DESC, edit.old, edit.new;"
        ),
        "The rows with the most changes": (
            f"SELECT {column}.num_changed, *\nFROM {table}\nORDER BY {column}.num_changed DESC LIMIT 100;"
        ),
    }
