"""The recipes that come with Imprint: `imprint train demo` works in any folder."""

from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError, closest, did_you_mean

PACKAGE: Final = Path(__file__).parents[1]
RECIPE: Final = "recipe.yaml"
"""Name of a recipe that `imprint init` writes."""
SUFFIXES: Final = ("", ".yaml", ".yml")


def recipes_folder() -> Path:
    """The folder of the recipes: in the package where it is installed, beside it in a clone."""
    inside = PACKAGE / "recipes"
    return inside if inside.is_dir() else PACKAGE.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The recipes by name, in alphabetical order."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def demo_command(recipe: Path, rows: Path) -> list[str] | None:
    """The words of the `imprint demo ...` that makes the `rows` of a shipped recipe, as its first lines tell; None if none does."""
    if recipe.parent != recipes_folder():
        return None
    commands = (line.partition("#   imprint ")[2].partition("  #")[0].split() for line in recipe.read_text("utf-8").splitlines())
    return next((words for words in commands if words[:1] == ["demo"] and Path(words[2]) in rows.parents), None)


def find_recipe(given: Path) -> Path:
    """The file that `given` names: itself, the recipe in a folder of `imprint init`, or the shipped recipe of this name.

    A name is written as `demo`, `demo.yaml` or `recipes/demo.yaml`. Raises UserError for a bare name that no recipe has.
    """
    shipped = shipped_recipes()
    is_name = given.suffix in SUFFIXES and given.parent in (Path(), Path("recipes"))
    if (own := given / RECIPE).is_file():
        return own
    if given.is_file() or not is_name:
        return given
    if given.stem in shipped:
        return shipped[given.stem]
    if given.suffix or given.exists() or given.parent != Path():
        return given  # reading it tells what is wrong
    meant = did_you_mean(closest(given.stem, shipped))
    names = ", ".join(shipped)
    raise UserError(
        Bilingual(
            f"{given}: there is no such file, and no recipe of this name. {meant.english}These come with Imprint: {names}. "
            "`imprint init` makes one of your own.",
            f"{given}：没有这个文件，也没有这个名字的配方。{meant.chinese}自带的配方：{names}。用 imprint init 可以生成自己的配方。",
        )
    )
