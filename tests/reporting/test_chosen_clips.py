import pytest

from actionfusion.reporting.chosen_clips import choose_clips


def _evaluation(rows):
    """Rows of (true label, probabilities of a, b, c)."""
    return {
        "labels": ["a", "b", "c"],
        "videos": [
            {
                "video": f"{number}.mp4",
                "label": truth,
                "predicted": "abc"[max(range(3), key=shares.__getitem__)],
                "probabilities": list(shares),
            }
            for number, (truth, shares) in enumerate(rows)
        ],
    }


def test_the_surest_mistakes_the_nearest_misses_and_the_surest_right_ones():
    wrong = [("b", (share, 0.9 - share, 0.1)) for share in (0.9, 0.8, 0.7, 0.65, 0.6, 0.47, 0.5)]
    right = [("a", (0.9, 0.1, 0)), ("a", (0.8, 0.2, 0)), ("c", (0.1, 0.1, 0.8))]
    chosen = choose_clips(_evaluation([*right, *wrong]))
    assert [clip.video for clip in chosen] == ["3.mp4", "4.mp4", "5.mp4", "6.mp4", "8.mp4", "9.mp4", "0.mp4", "2.mp4"]
    assert "90.0\xa0% sure" in chosen[0].note
    assert "4.0 points behind" in chosen[4].note
    assert chosen[0].predictions == (("a", 0.9), ("b", pytest.approx(0)), ("c", 0.1))


def test_probabilities_that_are_none_are_passed_over():
    rows = [("a", (float("nan"), 0.5, 0.5)), ("a", (1.7, 0.1, 0.1)), ("a", (0.7, 0.2, 0.1))]
    assert [clip.video for clip in choose_clips(_evaluation(rows))] == ["2.mp4"]
    assert choose_clips(_evaluation([])) == []
