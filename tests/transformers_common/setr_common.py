"""SETR under the tests that transformers runs on every model of its own. Not collected here: see run_common_tests.py.

The runner copies this file into a temporary copy of transformers' tests folder, whose files the imports below name.
Nothing is skipped by us; what does not apply to a segmentation model is skipped by transformers itself.
"""

import unittest

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_privseg import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, SetrModel

from ...test_configuration_common import ConfigTester
from ...test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)
from ...test_modeling_common import ModelTesterMixin, floats_tensor

# The training tests leave out the classes without a loss; they know them from this table of transformers' own models.
MODEL_MAPPING_NAMES.setdefault("setr", "SetrModel")


class SetrModelTester:
    """A tiny SETR with one decoder, and inputs for it; the attributes are those that the common tests ask for."""

    def __init__(self, parent, decoder):
        self.parent = parent
        self.decoder = decoder
        self.batch_size = 2
        self.num_channels = 3
        self.image_size = 16
        self.patch_size = 4
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.num_labels = 5
        self.is_training = True
        self.seq_length = 16 + (decoder != "mla")  # patches, and the class token

    def get_config(self):
        return SetrConfig(
            decoder_type=self.decoder,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=48,
            decoder_hidden_size=16,
            mla_hidden_size=8,
            num_labels=self.num_labels,
        )

    def prepare_config_and_inputs_for_common(self):
        size = [self.batch_size, self.num_channels, self.image_size, self.image_size]
        return self.get_config(), {"pixel_values": floats_tensor(size)}


class SetrCommonTests(ModelTesterMixin):
    """What all decoders share; no TestCase itself, so that it does not run without a decoder."""

    all_model_classes = (SetrModel, SetrForSemanticSegmentation)
    test_resize_embeddings = False  # there are no token embeddings
    decoder = None

    def setUp(self):
        self.model_tester = SetrModelTester(self, self.decoder)
        self.config_tester = ConfigTester(
            self, config_class=SetrConfig, has_text_modality=False, decoder_type=self.decoder
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        # The one test that is replaced, as for every vision model: there are no embeddings of tokens.
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), nn.Module)
            assert model.get_output_embeddings() is None


class SetrNaiveModelTest(SetrCommonTests, unittest.TestCase):
    decoder = "naive"


class SetrPupModelTest(SetrCommonTests, unittest.TestCase):
    decoder = "pup"


class SetrMlaModelTest(SetrCommonTests, unittest.TestCase):
    decoder = "mla"


class SetrImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 32, "width": 48})
        kwargs.setdefault("num_labels", 5)
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return {"torchvision": SetrImageProcessor}


class SetrImageProcessingTest(ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
    image_processor_tester_class = SetrImageProcessingTester
