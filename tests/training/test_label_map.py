"""Stored labels of any kind -> classes: values at the borders, and settings that contradict each other."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from hf_privseg.setr.segmentation_map_inputs import IGNORE_INDEX
from hf_privseg.training.label_map import LabelMap


class TestStoredValues:
    def test_reduction_and_void(self):
        stored = np.array([[0, 1, 150, 255]], np.uint8)
        assert LabelMap(150, reduce_labels=True)(stored).tolist() == [[IGNORE_INDEX, 0, 149, IGNORE_INDEX]]

    def test_a_mapping_ignores_what_it_does_not_name(self):
        assert LabelMap(2, mapping={7: 0, 26: 1})(np.array([[7, 26, 3]])).tolist() == [[0, 1, IGNORE_INDEX]]

    def test_a_label_map_gives_255_a_class_and_names_void(self):
        label_map = LabelMap(2, mapping={0: 0, 255: 1, 128: None})
        assert label_map(np.array([[0, 255, 128]], np.uint8)).tolist() == [[0, 1, IGNORE_INDEX]]

    def test_booleans_are_two_classes(self):
        assert LabelMap(2)(np.array([[False, True]])).tolist() == [[0, 1]]
        assert LabelMap(2)(Image.fromarray(np.array([[False, True]]))).tolist() == [[0, 1]]

    @pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
    def test_negative_labels_are_void_if_they_are_named(self, dtype):
        stored = np.array([[0, -1, 1]], dtype)
        assert LabelMap(2, ignore_labels=(-1,))(stored).tolist() == [[0, IGNORE_INDEX, 1]]
        assert LabelMap(2, mapping={0: 1, 1: 0})(stored).tolist() == [[1, IGNORE_INDEX, 0]]
        with pytest.raises(ValueError, match=r"expected labels 0 \.\. 1, or one of \(255,\) \(ignored\), got \[-1\]"):
            LabelMap(2)(stored)

    def test_labels_beyond_16_bits(self):
        stored = np.array([[3, 70000, 2**31]])
        assert LabelMap(2, mapping={70000: 1, 3: 0})(stored).tolist() == [[0, 1, IGNORE_INDEX]]
        assert LabelMap(4, ignore_labels=(70000, 2**31))(stored).tolist() == [[3, IGNORE_INDEX, IGNORE_INDEX]]
        with pytest.raises(ValueError, match=r"got \[70000, 2147483648\]"):
            LabelMap(4)(stored)

    def test_fractions_are_refused(self):
        with pytest.raises(ValueError, match=r"map of integers, got torch\.float32; .*astype"):
            LabelMap(2)(np.array([[0.0, 1.0]], np.float32))

    @pytest.mark.parametrize(("num_labels", "void"), [(255, 255), (256, -100), (300, -100)])
    def test_class_255_stays_a_class_where_it_is_one(self, num_labels, void):
        label_map = LabelMap(num_labels)
        assert label_map.ignore_index == void
        stored = np.array([[0, 254, 255]])
        assert label_map(stored).tolist() == [[0, 254, 255]]
        mapped = LabelMap(num_labels, mapping={index: index for index in range(num_labels)})
        assert mapped(np.array([[254, 65535]])).tolist() == [[254, void]]

    def test_reduced_labels_keep_the_last_class(self):
        assert LabelMap(255, reduce_labels=True)(np.array([[0, 255]])).tolist() == [[255, 254]]

    def test_an_unaccounted_label_is_named(self):
        with pytest.raises(ValueError, match=r"0 \.\. 10, or one of \(255,\) \(ignored\), got \[11, 40\]"):
            LabelMap(11)(np.array([[3, 11, 40]]))


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_labels": 1}, "two or more classes, got 1; let the background"),
            ({"num_labels": 2, "mapping": {7: 2}}, r"classes 0 \.\. 1 in the label map, got the class 2 for .* 7"),
            ({"num_labels": 2, "mapping": {7: -1}}, r"got the class -1 for the stored label 7"),
            (
                {"num_labels": 2, "mapping": {7: 1}, "ignore_labels": (7,)},
                "stored label 7 either in ignore_labels",
            ),
            ({"num_labels": 2, "mapping": {7: 1}, "reduce_labels": True}, "or reduce_labels, got both"),
        ],
        ids=["one class", "beyond", "negative", "void and a class", "reduced"],
    )
    def test_contradictions_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            LabelMap(**settings)

    def test_files(self, tmp_path):
        (tmp_path / "map.json").write_text('{"7": 0, "26": 1}')
        assert LabelMap.from_files(2, [255], str(tmp_path / "map.json"), False)(np.array([[26]])).tolist() == [[1]]
        (tmp_path / "map.json").write_text('{"7": 2}')
        with pytest.raises(ValueError, match=r"classes 0 \.\. 1 in the label map, got the class 2"):
            LabelMap.from_files(2, None, str(tmp_path / "map.json"), False)


class TestColours:
    @pytest.mark.parametrize("channels", [3, 4])
    def test_a_map_of_colours_is_refused(self, channels):
        colours = np.zeros((4, 5, channels), np.uint8)
        colours[2, 3, channels - 2] = 1  # one pixel that is not grey
        with pytest.raises(ValueError, match=rf"got the shape \(4, 5, {channels}\)"):
            LabelMap(11)(colours)

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_an_index_in_every_colour_channel_is_the_index(self, channels):
        stored = np.repeat(np.array([[3, 255], [0, 1]])[..., None], channels, axis=-1)
        stored[..., 3 if channels > 2 else 1 :] = 200  # opacity says nothing
        assert LabelMap(11)(stored).tolist() == [[3, IGNORE_INDEX], [0, 1]]
