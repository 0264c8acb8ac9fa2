import json

import pytest

from imprint.config import read_overrides
from imprint.messages import UserError
from imprint.serve import section as section_module
from imprint.serve.section import ServeSection, refuse_missing_libraries, split_words


def test_models_and_knobs_may_stand_in_any_order() -> None:
    assert split_words(["runs/a", "port=1", "runs/b=c", "hosts=[x]"]) == (["runs/a", "runs/b=c"], ["port=1", "hosts=[x]"])


def test_the_defaults_are_of_this_machine_alone() -> None:
    section = read_overrides([], ServeSection)
    assert (section.host, section.port, section.data) == ("127.0.0.1", 8504, "imprint-data")
    assert (section.guest, section.legacy, section.hosts, section.proxies) == (False, False, (), ())


@pytest.mark.parametrize(
    "words", [["port=70000"], ["proxies=[proxy.example]"], ["prot=1"], ["grace=-1"], ["max_waiting=0"], ["upstream=[http://ann:word@host]"]]
)
def test_a_wrong_knob_is_said(words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_overrides(words, ServeSection)
    assert words[0].partition("=")[0] in str(caught.value)


def test_proxies_are_addresses_or_networks() -> None:
    assert read_overrides(["proxies=[127.0.0.1, 10.0.0.0/8]"], ServeSection).proxies == ("127.0.0.1", "10.0.0.0/8")


def test_missing_libraries_are_said_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_missing_libraries()
    monkeypatch.setattr(section_module, "LIBRARIES", ("fastapi", "nosuchlibrary"))
    with pytest.raises(UserError, match="needs nosuchlibrary") as caught:
        refuse_missing_libraries()
    assert "imprint[serve]" in str(caught.value)


def test_a_host_is_a_name_as_browsers_send_it() -> None:
    names = ("chat.example.org", "localhost", "192.0.2.7", "::1", "xn--fiqs8s.example")
    assert read_overrides([f"hosts={json.dumps(names)}"], ServeSection).hosts == names
    for wrong in ("https://chat.example.org", "chat.example.org:8443", "*.example.org", "聊天.example"):
        with pytest.raises(UserError, match="without http:// and a port"):
            read_overrides([f'hosts=["{wrong}"]'], ServeSection)
