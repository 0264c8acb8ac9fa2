import itertools

import pytest

from imprint.serve.store import COMMAND_LINE, Store, StoreError
from imprint.serve.store import accounts as accounts_module
from imprint.serve.store.look_alikes import looks, mixes_scripts
from tests.serve.stores import HOME

PAIRS = (
    ("王二", "王ニ"),
    ("力工", "カエ"),
    ("口口", "ロロ"),
    ("一丁", "ー丁"),
    ("十一", "十ー"),
    ("一丁2", "ㄧ丁2"),
    ("alice", "aIice"),
    ("Alice", "AIice"),
    ("bob", "b০b"),
    ("root", "r০০t"),
    ("paul", "pau١"),
    ("leo", "le߀"),
    ("夕阳", "タ阳"),
    ("小力", "小カ"),
    ("卜算", "ト算"),
    ("八卦", "ハ卦"),
    ("李工", "李エ"),
    ("lily", "ㅣily"),
    ("oo", "ㅇㅇ"),
    ("x1", "xl"),
    ("h0", "hO"),
    ("admin", "adrnin"),
    ("сосо", "coco"),
    ("ВОВ", "BOB"),
    ("ада", "aдa"),
    ("modern", "modem"),
    ("ad.min", "ad٠min"),
    ("a-b", "aㅡb"),
    ("admin2", "admin２"),
    ("adminz", "adminʐ"),
    ("admin3", "adminʒ"),
    ("zoé", "zoe"),
    ("小二", "小⼆"),
    ("Ingrid", "lngrid"),
    ("admin", "ꓮꓓꓟꓲꓠ"),
    ("darec", "ᎠᎪᎡᎬᏟ"),
    ("oo", "օօ"),
    ("hun", "հսո"),
    ("SOUL", "ՏՕՍԼ"),
    ("oo", "סס"),
    ("oo", "ဝဝ"),
    ("lol", "اها"),
    ("كريم", "کریم"),
    ("موسى", "موسی"),
    ("مهدي", "مہدی"),
    ("هدى", "ھدى"),
    ("らーめん", "ら一めん"),
    ("ヘリ", "へり"),
    ("ベ", "べ"),
    ("ペン", "ぺン"),
    ("くリ", "くり"),
    ("関ヶ原", "関ケ原"),
    ("関ヶ原", "関个原"),
    ("山田タロウ", "山田夕ロウ"),
    ("山田タロウ", "山田タ口ウ"),
    ("山田タロウ", "山田ﾀﾛｳ"),
    ("ヵ原", "力原"),
    ("ㇸリ", "へり"),
    ("二〇", "ニ〇"),
    ("二〇", "二O"),
    ("二〇", "二0"),
    ("〇〇", "oo"),
    ("bob", "b〇b"),
    ("alice", "a丨ice"),
    ("xu", "乂u"),
    ("口口", "囗口"),
)

OTHERS = (
    "田中らーめん",
    "らーめん",
    "関ヶ原",
    "龍ヶ崎",
    "霞ヶ関",
    "ヶ崎",
    "山田タロウ",
    "佐々木リカ",
    "さくらタロー",
    "テスト王",
    "二〇",
    "〇〇",
    "二〇Li",
    "タロー",
    "کریم",
    "كريم",
    "שרה",
    "Արամ",
    "გიორგი",
    "राहुल",
    "তানিয়া",
    "அருண்",
    "അനു",
    "မောင်",
    "አበበ",
    "སྒྲོལ་མ".replace("་", ""),
)


@pytest.mark.parametrize(
    "other", ["admın", "ádmin", "ａdmin", "admi\u0336n", "ᴀᴅᴍɪɴ", "ɑdmin", "Aᵈmin", "İ".join(("adm", "n")), "admin\u0e4c"]
)
def test_forms_of_a_letter_and_accents_look_the_same(other: str) -> None:
    assert "admin" in looks(other)


def test_names_that_look_different_stay_apart() -> None:
    names = ("小明", "小名", "かき", "かぎ", "ก้อง", "กอง", "한글", "данил", "admin", "admin1", "straße", "æon", "eon")
    assert not any(looks(first) & looks(second) for first, second in itertools.combinations(names, 2))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_names_that_look_alike_there_is_one(store: Store, first: str, second: str) -> None:
    made, others = list[str](), []
    for name in (first, second):
        try:
            made.append(store.accounts.create(name, actor=COMMAND_LINE).account.name)
        except StoreError as error:
            others.append((error.kind, name))
    assert len(made) <= 1, others


@pytest.mark.parametrize(
    "name", ["李雷li2", "张三", "山田さくら", "タロウ", "さくらー", "한글", "Αθήνα", "данил9", "Zoë", "กอง", "李々", *OTHERS]
)
def test_what_people_write_together_is_no_mixture(name: str) -> None:
    assert not mixes_scripts(name)


@pytest.mark.parametrize(
    "name", ["ꓮꓓꓟꓲꓠ", "ᎪᏞᏆᏟᎬ", "ⲟⲟ", "ⵔⵔ", "ꭰꭱ", "ߋߋ", "ᏚᎥᎠ", "𐐬𐐬", "б〇б", "〇한", "タロa", "ー丁", "十ー", "ーら", "田ー中ら"]
)
def test_a_name_is_of_a_script_in_common_use_and_a_long_mark_follows_kana(name: str) -> None:
    assert mixes_scripts(name)


def test_an_account_of_before_keeps_its_name_and_no_new_one_looks_like_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(accounts_module, "account_name", str)
        before.setattr(accounts_module, "looks", lambda _: frozenset())
        passwords = {
            name: store.accounts.create(name, actor=COMMAND_LINE).password
            for name in ("王ニ", "王二", "b০b", "ꓮꓓꓟꓲꓠ", "کریم", "كريم", "oo", "օօ")
        }
    for name, password in passwords.items():
        assert store.sessions.login(name, password, HOME).principal.name == name
        store.accounts.change(store.accounts.named(name).id, actor=COMMAND_LINE, concurrency=3)
    store.accounts.create("bob", actor=COMMAND_LINE)
    with pytest.raises(StoreError, match='"b0b" looks like the account "bob"'):
        store.accounts.create("b0b", actor=COMMAND_LINE)
