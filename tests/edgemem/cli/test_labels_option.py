"""Class names on the command line and in files, with commas in them or not."""

import pytest

from edgemem.cli.commands.train_labels import read_labels
from edgemem.errors import InputError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, None),
        ("cat,dog", ("cat", "dog")),
        ("cat, dog ,emu", ("cat", "dog", "emu")),
        ('"crane, grey",dog', ("crane, grey", "dog")),
        ('"a ""big"" cat",dog', ('a "big" cat', "dog")),
        ("chat,Käfer,犬", ("chat", "Käfer", "犬")),
    ],
)
def test_names_with_commas_between_and_within(text, names):
    assert read_labels(text) == names


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_a_file_holds_one_name_a_line(end, line, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes((line.join(["crane, grey", "Käfer"]) + end).encode("utf-8-sig"))
    assert read_labels(str(path)) == ("crane, grey", "Käfer")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds an empty name"),
        ("cat,,dog", "holds an empty name"),
        ("cat,dog,cat", "names 'cat' twice"),
        ("none.txt", "does not exist"),
    ],
)
def test_names_that_are_missing_or_repeated_are_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        read_labels(text)


def test_a_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"K\xe4fer\n")
    with pytest.raises(InputError, match="cannot be read.*UTF-8"):
        read_labels(str(tmp_path / "names.txt"))
