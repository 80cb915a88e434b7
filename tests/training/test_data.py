"""From data sets to batches: layouts, label maps, and an augmentation that moves image and labels together."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

import datasets

from hf_privseg.catalog.class_files import class_names_of
from hf_privseg.setr.segmentation_map_inputs import IGNORE_INDEX
from hf_privseg.training.arguments import DataArguments
from hf_privseg.training.augmentation import AugmentedDataset, JointAugmentation, collate
from hf_privseg.training.data import load_segmentation_dataset, names_hash
from hf_privseg.training.label_map import LabelMap


def coloured_labels(labels: np.ndarray) -> Image.Image:
    """A grey picture whose brightness tells the label, so that both can be compared after augmentation."""
    return Image.fromarray(np.repeat(50 * labels[..., None], 3, axis=-1).astype(np.uint8))


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 5, (6, 8)), np.ones((16, 16), int)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, labels):
    for split, count in (("train", 5), ("val", 2)):
        for index in range(count):
            for kind in ("images", "annotations"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            rolled = np.roll(labels, 16 * index, axis=1)
            coloured_labels(rolled).save(tmp_path / "images" / split / f"{index}.png")
            Image.fromarray(rolled).save(tmp_path / "annotations" / split / f"{index}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": list("abcde")}))
    return tmp_path


class TestLoading:
    def test_a_folder_of_images_and_annotations(self, folder, labels):
        train = load_segmentation_dataset(folder, split="train")
        assert train.column_names == ["image", "annotation"]
        assert len(train) == 5
        assert np.array_equal(np.array(train[2]["annotation"]), np.roll(labels, 32, axis=1))

    def test_parquet_with_other_column_names(self, folder, tmp_path):
        rows = load_segmentation_dataset(folder, split="val").rename_columns({"image": "pixels", "annotation": "mask"})
        (tmp_path / "parquet").mkdir()
        rows.to_parquet(tmp_path / "parquet" / "val.parquet")
        loaded = load_segmentation_dataset(
            tmp_path / "parquet", split="validation", image_column="pixels", annotation_column="mask"
        )
        assert loaded.column_names == ["image", "annotation"]
        assert np.array_equal(np.array(loaded[1]["annotation"]), np.array(rows[1]["mask"]))

    def test_the_options_of_a_command_line_reach_the_data(self, folder, tmp_path):
        rows = load_segmentation_dataset(folder, split="val").rename_columns({"image": "pixels", "annotation": "mask"})
        (tmp_path / "parquet").mkdir()
        rows.to_parquet(tmp_path / "parquet" / "val.parquet")
        (tmp_path / "map.json").write_text('{"0": 1, "1": 0}')
        arguments = DataArguments(
            dataset=str(tmp_path / "parquet"),
            image_column="pixels",
            annotation_column="mask",
            id2label=str(folder / "classes.json"),
            label_map=str(tmp_path / "map.json"),
        )
        assert arguments.load_class_names()[4] == "e"
        stored = np.array(arguments.load_split("validation")[1]["annotation"])
        assert np.array_equal(stored, np.array(rows[1]["mask"]))
        assert arguments.load_label_map(2)(np.array([[0, 1, 2]])).tolist() == [[1, 0, IGNORE_INDEX]]
        arguments = DataArguments(dataset="", ignore_labels=[7], reduce_labels=True)
        assert arguments.load_label_map(2)(np.array([[0, 1, 2, 7]])).tolist() == [[255, 0, 1, 255]]

    def test_an_image_folder_with_metadata(self, folder, tmp_path):
        target = tmp_path / "imagefolder" / "train"
        target.mkdir(parents=True)
        lines = []
        for index in range(2):
            for kind in ("images", "annotations"):
                Image.open(folder / kind / "train" / f"{index}.png").save(target / f"{kind}_{index}.png")
            names = {"image_file_name": f"images_{index}.png", "annotation_file_name": f"annotations_{index}.png"}
            lines.append(json.dumps(names))
        (target / "metadata.jsonl").write_text("\n".join(lines))
        loaded = load_segmentation_dataset(tmp_path / "imagefolder", split="train")
        assert np.array_equal(
            np.array(loaded[1]["annotation"]), np.array(Image.open(folder / "annotations/train/1.png"))
        )

    def test_streaming_gives_the_same_rows(self, folder, tmp_path):
        rows = load_segmentation_dataset(folder, split="train")
        (tmp_path / "parquet").mkdir()
        rows.to_parquet(tmp_path / "parquet" / "train.parquet")
        streamed = load_segmentation_dataset(tmp_path / "parquet", split="train", streaming=True)
        assert isinstance(streamed, datasets.IterableDataset)
        for row, expected in zip(streamed, rows, strict=True):
            assert np.array_equal(np.array(row["annotation"]), np.array(expected["annotation"]))

    def test_palette_annotations_keep_their_indices(self, tmp_path):
        indices = np.array([[0, 1], [2, 255]], np.uint8)
        for kind in ("images", "annotations"):
            (tmp_path / kind / "train").mkdir(parents=True)
        mask = Image.fromarray(indices, mode="P")
        mask.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
        mask.save(tmp_path / "annotations/train/a.png")
        Image.new("RGB", (2, 2)).save(tmp_path / "images/train/a.jpg")
        row = load_segmentation_dataset(tmp_path, split="train")[0]
        assert LabelMap(3)(row["annotation"]).tolist() == indices.tolist()

    def test_an_unknown_split_names_those_that_exist(self, folder):
        with pytest.raises(FileNotFoundError, match=r"images/test; the splits .* are \['train', 'val'\]"):
            load_segmentation_dataset(folder, split="test")

    def test_an_image_without_annotation_is_named(self, folder):
        (folder / "annotations/train/3.png").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"no segmentation map for 1 of 5 images .* expected 3 with .*\.png"
        ):
            load_segmentation_dataset(folder, split="train")

    def test_missing_columns_are_named(self, folder, tmp_path):
        (tmp_path / "parquet").mkdir()
        load_segmentation_dataset(folder, split="val").to_parquet(tmp_path / "parquet" / "val.parquet")
        with pytest.raises(
            ValueError, match=r"expected the columns \['image', 'mask'\] .*, got \['image', 'annotation'\]"
        ):
            load_segmentation_dataset(tmp_path / "parquet", split="validation", annotation_column="mask")


def test_class_names(folder, tmp_path):
    assert class_names_of(folder) == dict(enumerate("abcde"))
    (tmp_path / "id2label.json").write_text('{"0": "wall", "1": "floor"}')
    assert class_names_of(folder, tmp_path / "id2label.json") == {0: "wall", 1: "floor"}
    with pytest.raises(FileNotFoundError, match=r"missing\.json; give a JSON file"):
        class_names_of(folder, tmp_path / "missing.json")


class TestAugmentation:
    @pytest.mark.parametrize("scale_range", [(1.0, 1.0), (0.4, 0.6), (2.0, 3.0)], ids=["same", "padded", "enlarged"])
    def test_image_and_labels_move_together(self, labels, scale_range):
        torch.manual_seed(0)
        augment = JointAugmentation(64, scale_range=scale_range, max_class_share=1.0)
        agreement = []
        for _ in range(8):
            sample = augment(coloured_labels(labels), labels.astype(np.int64))
            assert sample["pixel_values"].shape == (3, 64, 64)
            assert sample["pixel_values"].dtype == torch.float32
            assert sample["pixel_values"].abs().max() <= 1
            assert sample["labels"].shape == (64, 64)
            agreement.append(brightness_follows_labels(sample))
        assert np.mean(agreement) > 0.9

    def test_misaligned_labels_would_be_noticed(self, labels):
        torch.manual_seed(0)
        augment = JointAugmentation(64, scale_range=(1.0, 1.0), max_class_share=1.0)
        wrong = [augment(coloured_labels(np.roll(labels, 8, axis=0)), labels.astype(np.int64)) for _ in range(8)]
        assert np.mean([brightness_follows_labels(sample) for sample in wrong]) < 0.9

    def test_padding_is_void_and_grey(self):
        sample = JointAugmentation(64, scale_range=(0.5, 0.5), max_class_share=1.0)(
            Image.new("RGB", (64, 64), (255, 0, 0)), np.zeros((64, 64), np.int64)
        )
        padded = sample["labels"] == IGNORE_INDEX
        assert padded.sum() == 64 * 64 - 32 * 32

    def test_height_and_width_of_images_and_crops(self, labels):
        torch.manual_seed(0)
        image, classes = coloured_labels(labels), labels.astype(np.int64)
        resized = JointAugmentation((24, 64), scale_range=(1, 1), max_class_share=1.0, image_size=(24, 64))
        samples = [resized(image, classes) for _ in range(8)]
        assert samples[0]["pixel_values"].shape == (3, 24, 64)
        # the whole image, of 6 x 8 squares of one class each, mirrored or not
        rows = torch.from_numpy(labels[::16, ::16].astype(np.int64))
        for sample in samples:
            seen = sample["labels"][2::4, 4::8]
            assert torch.equal(seen, rows) or torch.equal(seen, rows.flip(1))
        assert np.mean([brightness_follows_labels(sample) for sample in samples]) > 0.9
        small = JointAugmentation((24, 64), scale_range=(0.5, 0.5), max_class_share=1.0, image_size=(24, 64))
        assert (small(image, classes)["labels"] != IGNORE_INDEX).sum() == 12 * 32

    def test_crops_full_of_one_class_are_drawn_again(self):
        torch.manual_seed(0)
        labels = np.zeros((64, 256), np.int64)
        labels[:, 224:] = 1
        crop = {share: JointAugmentation(32, scale_range=(1, 1), max_class_share=share) for share in (0.75, 1.0)}
        image = Image.new("RGB", (256, 64))
        mixed = {
            share: np.mean([len(augment(image, labels)["labels"].unique()) > 1 for _ in range(40)])
            for share, augment in crop.items()
        }
        assert mixed[0.75] > 2 * mixed[1.0]


def brightness_follows_labels(sample) -> float:
    """How well the brightness tells the labels apart: the share of its variance that they explain."""
    brightness, label = sample["pixel_values"].mean(dim=0).flatten(), sample["labels"].flatten()
    known = label != IGNORE_INDEX
    brightness, label = brightness[known], label[known]
    within = sum(((brightness[label == k] - brightness[label == k].mean()) ** 2).sum() for k in label.unique())
    return float(1 - within / ((brightness - brightness.mean()) ** 2).sum())


class TestAugmentedDataset:
    def make(self, folder, seed=0):
        dataset = load_segmentation_dataset(folder, split="train")
        return AugmentedDataset(dataset, JointAugmentation(32), LabelMap(5), seed=seed)

    def test_a_sample_depends_on_seed_epoch_and_index_alone(self, folder):
        first, second = self.make(folder), self.make(folder)
        torch.manual_seed(1)
        _ = [first[index] for index in (4, 2, 0)]
        torch.manual_seed(2)
        assert torch.equal(first[3]["pixel_values"], second[3]["pixel_values"])
        before = first[3]["pixel_values"]
        first.set_epoch(1)
        assert not torch.equal(before, first[3]["pixel_values"])
        assert not torch.equal(before, self.make(folder, seed=1)[3]["pixel_values"])

    def test_the_caller_s_random_state_is_left_alone(self, folder):
        dataset = self.make(folder)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        _ = dataset[0]
        assert torch.equal(torch.rand(3), expected)

    def test_batches(self, folder):
        dataset = self.make(folder)
        batch = collate([dataset[index] for index in range(3)])
        assert batch["pixel_values"].shape == (3, 3, 32, 32)
        assert batch["labels"].shape == (3, 32, 32)
        assert batch["labels"].dtype == torch.int64


def test_the_hash_of_names_tells_data_sets_apart(tmp_path):
    def stored(*names):
        for name in names:
            Image.new("RGB", (4, 4)).save(tmp_path / name)
        paths = datasets.Dataset.from_dict({"image": [str(tmp_path / name) for name in names]})
        return paths, paths.cast_column("image", datasets.Image())

    paths, images = stored("a.png", "b.png")
    assert names_hash(paths) == names_hash(images) == hashlib.sha256(b"a.png\nb.png\n").hexdigest()
    assert names_hash(images.select([1])) == hashlib.sha256(b"b.png\n").hexdigest()
    assert names_hash(images.to_iterable_dataset()) is None
    without = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (4, 4))]}, datasets.Features(image=datasets.Image())
    )
    assert names_hash(without) is None
