import re

from imprint.serve.store.tables import METADATA, new_public_id


def test_what_people_see_of_a_row_is_128_random_bits() -> None:
    made = {new_public_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_every_table_that_hangs_on_an_account_goes_with_it() -> None:
    keys = [key for table in METADATA.tables.values() for key in table.foreign_keys if key.column.table is not table]
    assert keys
    assert {key.ondelete for key in keys} == {"CASCADE"}
