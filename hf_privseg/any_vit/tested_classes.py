"""The classes around a patch embedding that the tests of this package have encrypted, and found to compute the same.

All models from the outermost to the owner of the layer count: a `Mask2FormerForUniversalSegmentation` on a
`Dinov2Backbone` is taken as tested, since both of them, and `Mask2FormerModel` between them, are in the list.
"""

# fmt: off
TESTED_CLASSES: frozenset[str] = frozenset({
    "BeitBackbone", "BeitForImageClassification", "BeitForSemanticSegmentation", "BeitModel",
    "CLIPForImageClassification", "CLIPModel", "CLIPSegForImageSegmentation", "CLIPSegModel", "CLIPSegVisionModel",
    "CLIPVisionModel", "ConvNextBackbone", "ConvNextForImageClassification", "ConvNextModel", "ConvNextV2Backbone",
    "ConvNextV2ForImageClassification", "ConvNextV2Model", "DINOv3ConvNextBackbone", "DINOv3ConvNextEncoder",
    "DINOv3ConvNextModel", "DINOv3ViTBackbone", "DINOv3ViTModel", "DPTForDepthEstimation",
    "DPTForSemanticSegmentation", "DPTModel", "Data2VecVisionForImageClassification",
    "Data2VecVisionForSemanticSegmentation", "Data2VecVisionModel", "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher", "DeiTModel", "DepthAnythingForDepthEstimation", "Dinov2Backbone",
    "Dinov2ForImageClassification", "Dinov2Model", "Dinov2WithRegistersBackbone",
    "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel", "EomtDinov3ForUniversalSegmentation",
    "EomtForUniversalSegmentation", "FocalNetBackbone", "FocalNetForImageClassification", "FocalNetModel",
    "GroundingDinoForObjectDetection", "GroundingDinoModel", "GroupViTVisionModel",
    "Idefics3ForConditionalGeneration", "Idefics3Model", "Idefics3VisionTransformer", "InternVLVisionModel",
    "Llama4VisionModel", "LlavaForConditionalGeneration", "LlavaModel", "Mask2FormerForUniversalSegmentation",
    "Mask2FormerModel", "MaskFormerForInstanceSegmentation", "MaskFormerModel", "MaskFormerSwinBackbone",
    "MaskFormerSwinModel", "MllamaVisionModel", "OneFormerForUniversalSegmentation", "OneFormerModel",
    "OwlViTForObjectDetection", "OwlViTModel", "OwlViTVisionTransformer", "Owlv2ForObjectDetection", "Owlv2Model",
    "Owlv2VisionTransformer", "PaliGemmaForConditionalGeneration", "PaliGemmaModel", "PixtralVisionModel",
    "PvtForImageClassification", "PvtModel", "Qwen2VLForConditionalGeneration", "Qwen2VLModel",
    "Qwen2VisionTransformerPretrainedModel", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel",
    "Qwen2_5_VisionTransformerPretrainedModel", "Qwen3VLForConditionalGeneration", "Qwen3VLModel",
    "Qwen3VLVisionModel", "RfDetrDinov2Backbone", "RfDetrForInstanceSegmentation", "RfDetrForObjectDetection",
    "RfDetrModel", "Sam3ViTModel", "SamHQModel", "SamHQVisionEncoder", "SamModel", "SamVisionEncoder",
    "SegGptForImageSegmentation", "SegGptModel", "SetrForSemanticSegmentation", "SetrModel", "Siglip2VisionModel",
    "SiglipForImageClassification", "SiglipModel", "SiglipVisionModel", "SwinBackbone",
    "SwinForImageClassification", "SwinModel", "Swinv2Backbone", "Swinv2ForImageClassification", "Swinv2Model",
    "TimesformerForVideoClassification", "TimesformerModel", "UperNetForSemanticSegmentation",
    "VJEPA2ForVideoClassification", "VJEPA2Model", "ViTForImageClassification", "ViTMAEModel", "ViTModel",
    "VideoMAEForVideoClassification", "VideoMAEModel", "VideoPrismForVideoClassification", "VideoPrismVideoModel",
    "VideoPrismVisionModel", "VideomtForUniversalSegmentation", "ViltForImageAndTextRetrieval", "ViltForMaskedLM",
    "ViltForQuestionAnswering", "ViltForTokenClassification", "ViltModel", "VitDetBackbone", "VitDetModel",
    "VivitForVideoClassification", "VivitModel", "YolosForObjectDetection", "YolosModel",
    "ZoeDepthForDepthEstimation",
})
# fmt: on
