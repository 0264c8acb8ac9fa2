from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, StoreError
from tests.serve.stores import HOME, open_store


def test_guests_are_let_in_on_this_machine_until_an_admin_says_otherwise_and_every_process_sees_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as service, open_store(tmp_path) as command:
        assert service.settings.guests() == "loopback"
        guest = service.sessions.guest(HOME)
        command.settings.set_guests("everywhere", COMMAND_LINE)
        assert service.settings.guests() == "everywhere"
        assert service.is_valid(guest.principal)
        command.settings.set_guests("off", COMMAND_LINE)
        assert not service.is_valid(guest.principal)
        with pytest.raises(StoreError, match="guests are not let in") as refused:
            service.sessions.guest(HOME)
        assert refused.value.kind == "forbidden"
        assert [entry.detail for entry in service.audit.list()] == ["guests=off", "guests=everywhere"]


def test_another_word_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(StoreError, match="guests: must be one of loopback, everywhere, off; got 'public'"):
            store.settings.set_guests("public", COMMAND_LINE)
        assert store.settings.guests() == "loopback"
