"""Files about classes in the forms in which people write them: their values, and the line or key of a mistake."""

import json

import pytest

from hf_privseg.catalog.class_files import class_names_of, palette_of, read_class_names, read_label_map

ROAD_REST = {0: "road", 1: "rest"}


def write(folder, content, name="classes.json"):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"0": "road", "1": "rest"},
        {"1": "rest", "0": "road"},
        {"road": 0, "rest": 1},
        ["road", "rest"],
        [{"id": 1, "name": "rest"}, {"id": 0, "name": "road", "supercategory": "flat"}],
        {"id2label": {"0": "road", "1": "rest"}, "label2id": {"road": 0, "rest": 1}, "model_type": "setr"},
        {"label2id": {"road": 0, "rest": 1}},
        {"classes": ["road", "rest"], "ignore_index": 11, "palette": [[0, 0, 0], [1, 1, 1]]},
        {"classes": {"0": "road", "1": "rest"}},
        {"classes": {"road": 0, "rest": 1}},
        {"names": ["road", "rest"], "nc": 2},
        {"categories": [{"id": 0, "name": "road"}, {"id": 1, "name": "rest"}], "images": []},
        b'\xef\xbb\xbf{"0": "road", "1": "rest"}',
        '{"0": "road", "1": "rest"}'.encode("utf-16"),
    ],
    ids=[
        "id2label",
        "unordered",
        "label2id",
        "list",
        "records",
        "config",
        "label2id-key",
        "camvid",
        "classes-id",
        "classes-label",
        "yolo",
        "coco",
        "bom",
        "utf16",
    ],
)
def test_common_forms_of_class_names(tmp_path, content):
    names = read_class_names(write(tmp_path, content))
    assert names == ROAD_REST
    assert list(names) == [0, 1]


def test_one_name_a_line(tmp_path):
    assert read_class_names(write(tmp_path, "traffic light\nrest \n\n", "classes.txt")) == {
        0: "traffic light",
        1: "rest",
    }
    with pytest.raises(ValueError, match=r"classes\.txt: expected one name a line, got an empty line 2"):
        read_class_names(write(tmp_path, "road\n\nrest\n", "classes.txt"))


def test_a_class_may_be_called_like_a_wrapper(tmp_path):
    assert read_class_names(write(tmp_path, {"names": 0, "labels": 1})) == {0: "names", 1: "labels"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"0": "road",\n"1": "rest",\n}', r"expected JSON, got a mistake in line [34], column "),
        ("", "expected JSON, got a mistake in line 1, column 1"),
        ({}, "the names of two or more classes, got none"),
        ([], "the names of two or more classes, got none"),
        ({"classes": []}, "the names of two or more classes, got none"),
        (["road"], "two or more classes, got one, 'road'.*let the background be a class|Let the background"),
        ({"0": 0, "1": 1}, "expected a name under the key '0', got 0"),
        ({"0": "road", "1": 7}, "expected a name under the key '1', got 7"),
        ([0, 255], "expected the name of class 0 to be a text, got 0"),
        (["road", " "], "expected the name of class 1 to be a text, got ' '"),
        (["road", "rest", "road"], "a different name for each class, got 'road' for 0 and 2"),
        ({"road": 0, "rest": 0}, '0 is there twice, with "road" and "rest"'),
        ('{"0": "road", "0": "rest"}', '\'0\' is there twice, with "road" and "rest"'),
        ({"0": "road", "rest": 1}, "got \"road\" under the key '0', which is no id"),
        ({"road": 0, "rest": 1.5}, "got 1.5 under the key 'rest', which is no id"),
        ({"road": True, "rest": False}, "got true under the key 'road'"),
        ([{"id": 0, "name": "road"}, {"id": "1", "name": "rest"}], 'as entry 1, got {"id": "1", "name": "rest"}'),
        ("3", r"expected {id: name}, {name: id} or \[name, \.\.\.\], got 3"),
        (b"\xff\xff{}", "expected text in UTF-8, got other bytes at position 0"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=[
        "comma",
        "empty-file",
        "empty-object",
        "empty-list",
        "empty-classes",
        "one-class",
        "id-id",
        "integer-name",
        "integers",
        "blank",
        "duplicate-name",
        "duplicate-id",
        "duplicate-key",
        "mixed",
        "fraction",
        "booleans",
        "record",
        "number",
        "encoding",
        "deep",
    ],
)
def test_what_is_no_file_of_class_names_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"classes\.json: .*({message})"):
        read_class_names(write(tmp_path, content))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 255], r"ids 0 \.\. 1 without gaps, got 0, 255 \(1 \.\. 254 missing\).*with {\"0\": 0, \"255\": 1}"),
        ([0, 1, 3], r"ids 0 \.\. 2 without gaps, got 0, 1, 3 \(2 missing\).*with {\"0\": 0, \"1\": 1, \"3\": 2}"),
        ([1, 2, 3], r"got 1 \.\. 3 \(0 missing\).*with {\"1\": 0, \"2\": 1, \"3\": 2}"),
        ([-1, 0], r"got -1, 0 \(-1 is negative|got -1, 0 \(1 missing"),
        (range(5, 300), r"got 5 \.\. 299 \(0 \.\. 4 missing\).*\"12\": 7, \.\.\.}"),
    ],
    ids=["0 and 255", "0, 1 and 3", "from 1", "negative", "many"],
)
def test_gaps_are_named_with_the_label_map_that_closes_them(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        read_class_names(write(tmp_path, {str(index): f"class {index}" for index in ids}))


def test_a_folder_that_is_not_there_is_told_from_one_without_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"but there is no folder .*absent; check its name, or give a JSON"):
        class_names_of(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"classes\.json; give a JSON"):
        class_names_of(tmp_path)


def test_label_maps(tmp_path):
    assert read_label_map(write(tmp_path, {"7": 0, "-1": None, "70000": 1})) == {7: 0, -1: None, 70000: 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected {stored label: class}, got {}"),
        ([0, 1], r"expected {stored label: class}, got \[0, 1\]"),
        ({"road": 0}, "expected stored labels to be integers, got the key 'road'"),
        ({"1.5": 0}, r"integers, got the key '1\.5'"),
        ({"7": "0"}, 'a class or null for the stored label 7, got "0"'),
        ({"7": 0.5}, r"for the stored label 7, got 0\.5"),
        ({"7": True}, "for the stored label 7, got true"),
        ('{"7": 0, "07": 1}', "7 is there twice, with 0 and 1"),
    ],
    ids=["empty", "list", "name", "fraction", "text", "half", "boolean", "twice"],
)
def test_what_is_no_label_map_is_refused_with_its_key(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"map\.json: .*{message}"):
        read_label_map(write(tmp_path, content, "map.json"))


def coloured(*colours):
    return [{"id": index, "name": f"class {index}"} | colour for index, colour in enumerate(colours)]


class TestColours:
    def palette(self, tmp_path, content):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        return palette_of(tmp_path)

    @pytest.mark.parametrize("wrapped", [False, True], ids=["list", "categories"])
    def test_they_come_in_the_order_of_the_classes(self, tmp_path, wrapped):
        records = coloured({"color": [1, 2, 3]}, {"color": [0, 255, 0]})[::-1]
        found = self.palette(tmp_path, {"categories": records} if wrapped else records)
        assert found == [(1, 2, 3), (0, 255, 0)]
        assert palette_of(tmp_path, preset="camvid") != found

    @pytest.mark.parametrize(
        "content", [["a", "b"], {"0": "a", "1": "b"}, coloured({}, {})], ids=["list", "ids", "records"]
    )
    def test_there_may_be_none(self, tmp_path, content):
        assert self.palette(tmp_path, content) is None
        (tmp_path / "names.txt").write_text("a\nb\n")
        assert palette_of(tmp_path, tmp_path / "names.txt") is None

    @pytest.mark.parametrize(
        "colour", [{}, {"color": [1, 2]}, {"color": [0, 0, 256]}, {"color": "red"}, {"color": [True, 0, 0]}]
    )
    def test_what_is_none_is_refused_with_the_class(self, tmp_path, colour):
        with pytest.raises(ValueError, match=r'classes\.json: expected "color": .* for class 1'):
            self.palette(tmp_path, coloured({"color": [0, 0, 0]}, colour))
