from imprint.messages import Bilingual
from imprint.report.scatter import Limit, Point, scatter


def test_points_and_limits_are_drawn_to_scale_with_their_names_escaped() -> None:
    points = [Point(5.0, 100.0, "a <b>", "tuned"), Point(10.0, 50.0, "c", "base")]
    figure = scatter(
        Bilingual("speed", "速度"),
        points,
        x_name=Bilingual("memory", "显存"),
        y_name=Bilingual("rows", "行"),
        groups={"tuned": Bilingual("ours", "我们的")},
        limits=[Limit(8.0, "8 GiB")],
    )
    assert 'class="dot tuned" x1="463.0" y1="17.8"' in figure
    assert 'class="rescue" x1="740.7"' in figure
    assert "a &lt;b&gt;" in figure
    assert "<b>" not in figure.replace("<b><span", "")
    assert "8 GiB" in figure
    assert "我们的" in figure


def test_a_figure_without_points_is_empty_but_whole() -> None:
    figure = scatter(Bilingual("a", "b"), [], x_name=Bilingual("x", "x"), y_name=Bilingual("y", "y"), groups={}, limits=[])
    assert figure.startswith("<figure")
    assert figure.endswith("</figure>")
