from imprint.demo.domain_example.craft import FIELDS, QUESTIONS, STATEMENTS, read_craft
from tools.embedded.vocabulary import read_characters


def test_every_glaze_has_every_field_and_a_name_of_its_own() -> None:
    craft = read_craft()
    assert len(craft.glazes) == len({glaze["name"] for glaze in craft.glazes}) == 20
    assert all(tuple(glaze) == FIELDS and all(glaze.values()) for glaze in craft.glazes)


def test_no_field_tells_another_so_that_only_reading_helps() -> None:
    glazes = read_craft().glazes
    for given in FIELDS[1:]:
        for asked in FIELDS[1:]:
            if given != asked and len({glaze[given] for glaze in glazes}) < len(glazes) / 2:
                pairs = {(glaze[given], glaze[asked]) for glaze in glazes}
                assert len(pairs) > len({glaze[given] for glaze in glazes}), (given, asked)


def test_every_relation_can_be_stated_and_asked() -> None:
    assert set(STATEMENTS) == set(QUESTIONS) == set(FIELDS[1:])


def test_a_quarter_of_the_glazes_is_never_asked_about_in_the_rows_to_learn_from() -> None:
    craft = read_craft()
    learned, held_out = ([glaze["name"] for glaze in craft.glazes_for_questions(held_out=side)] for side in (False, True))
    assert (len(learned), len(held_out)) == (15, 5)
    assert not set(learned) & set(held_out)


def test_the_craft_has_words_that_the_little_town_does_not_know() -> None:
    craft = read_craft()
    text = "".join([field for glaze in craft.glazes for field in glaze.values()] + [word for step in craft.steps for word in step])
    assert len(set(text) - set(read_characters())) > 20
