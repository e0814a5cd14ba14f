"""The boxes of the actors hold against the pictures themselves."""

from dataclasses import replace

import numpy as np
import pytest

from actionfusion.data.shapes import SHAPE_CLASSES, SIZE, draw_scene
from actionfusion.data.shapes_pictures import actor_boxes, render


@pytest.mark.parametrize("label", SHAPE_CLASSES)
def test_what_an_actor_changes_lies_in_its_box_and_fills_it(label):
    scene = draw_scene(label, 11)
    for actor in scene.actors:
        alone = replace(scene, actors=(actor,))
        boxes = actor_boxes(alone)
        changed = (render(alone) != render(replace(scene, actors=()))).any(axis=1)
        # A pixel at the disc's edge is covered in part, up to half a pixel outside.
        assert not (changed & ~actor_boxes(alone, margin=1)).any()
        disc = np.pi * 12.5**2 / 24.5**2
        assert (changed & boxes).sum() / boxes.sum() == pytest.approx(disc, abs=0.03)


def test_boxes_of_two_actors_join_and_a_margin_widens_them():
    scene = draw_scene("binding_square_right", 3)
    both = actor_boxes(scene)
    parts = [actor_boxes(replace(scene, actors=(actor,))) for actor in scene.actors]
    np.testing.assert_array_equal(both, parts[0] | parts[1])
    # Between whole pixels a box covers 24 of them, else 25.
    sides = np.sqrt(parts[0].sum(axis=(1, 2)))
    assert ((sides >= 24) & (sides <= 25)).all()
    assert (actor_boxes(scene, margin=4) | both == actor_boxes(scene, margin=4)).all()
    assert actor_boxes(scene, margin=SIZE).all()
