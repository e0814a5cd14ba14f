"""Errors name their subject, speak in one line, and survive the way back from a worker process."""

import pickle

import pytest

from actionfusion import errors


def _family() -> list[type[errors.ActionFusionError]]:
    found = [errors.ActionFusionError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == errors.__name__]  # the server's have the kinds of HTTP


@pytest.mark.parametrize("kind", _family())
def test_message_is_one_line_with_subject_reason_and_remedy(kind):
    text = str(kind("clips/a\nb.avi", "is damaged\nafter frame 3", "make it again"))
    assert text == "clips/a b.avi: is damaged after frame 3; make it again."


@pytest.mark.parametrize("kind", _family())
def test_survives_pickling(kind):
    error = kind("a.avi", "is damaged", "make it again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.subject, again.reason, again.remedy, str(again)) == (
        "a.avi",
        "is damaged",
        "make it again",
        str(error),
    )


def test_kinds_are_distinct_and_builtins_catch_them():
    kinds = [kind.kind for kind in _family()]
    assert len(set(kinds)) == len(kinds)
    assert issubclass(errors.VideoMissing, FileNotFoundError)
    assert issubclass(errors.VideoDamaged, ValueError)


def test_a_name_that_is_no_utf8_can_be_printed():
    name = b"caf\xe9.avi".decode("utf-8", "surrogateescape")
    assert (
        str(errors.VideoMissing(name, "is not there", "check the path")).encode("utf-8").startswith(b"caf\\udce9.avi")
    )


def test_no_password_is_in_an_error():
    for subject in ("http:/anna:s3:cr@et@host/a.mp4", "ftp://anna:s3cret@host/a.mp4"):
        error = errors.VideoMissing(subject, f"cannot open {subject} here", "check it")
        assert "cret" not in f"{error} {error.subject} {error.reason}"
        assert "anna@host/a.mp4" in str(error)
    error = errors.DatasetError("s3://k:cret@b/c?token=cret", "https://h/w.pth?a=cret, too", "give another?")
    assert "cret" not in f"{error}"
    assert str(error) == "s3://k@b/c?***: https://h/w.pth?***, too; give another?"
    assert errors.VideoMissing("C:/a:b/c@d.mp4", "r", "s").subject == "C:/a:b/c@d.mp4"
