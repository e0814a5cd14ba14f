"""Models of each kind of answer to the contract, for tests that cost too much to run on all.

ALL_MODELS=1 in the environment takes all, as after a model was added.
"""

from __future__ import annotations

import os

from actionfusion.models import MODELS, VideoModel, model_class

_FIRST = ("fusion", "lrcn", "c3d", "probe")
_HOOKS = ("attention", "unlabelled_loss", "make_rows")


def _kind(name: str) -> tuple[object, ...]:
    model = model_class(name)
    exact = model.stream_shape(model.Settings.tiny(5)) is not None
    own = tuple(hook for hook in _HOOKS if getattr(model, hook) is not getattr(VideoModel, hook))
    return model.solved, model.exportable, model.fixed_frames, exact, own


ALL = bool(os.environ.get("ALL_MODELS"))
REPRESENTATIVES = tuple(MODELS)
if not ALL:
    of_kinds = {_kind(name): name for name in reversed((*_FIRST, *MODELS))}
    REPRESENTATIVES = tuple(dict.fromkeys((*_FIRST, *of_kinds.values())))
