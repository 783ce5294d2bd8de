"""The table of bad input is as long as it was, and no part of it lies unused."""

from bad_input import TABLE
from reference import REPOSITORY


def test_the_table_is_long_and_used():
    """Prints every kind with its sentence: seen with `pytest -s`."""
    code = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for section, rows in TABLE.items():
        print(f"\n{section}", *(f"  {row['kind']} -> {row['sentence']}" for row in rows), sep="\n")
        assert f'rows("{section}")' in code and len({row["kind"] for row in rows}) == len(rows), section
        assert all(set(row) == {"kind", "given", "sentence"} and row["sentence"] for row in rows), section
    kinds = sum(map(len, TABLE.values()))
    print(f"\n{kinds} kinds of bad input")
    assert kinds >= 80
