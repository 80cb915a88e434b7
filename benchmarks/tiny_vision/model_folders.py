"""The models of transformers 5.24 that read pixels, by the names of their folders, and what is known of them.

A model that none of these has is new: a test then asks for somebody to look at it.
"""

# fmt: off
# At least one class is encrypted by the tests.
TESTED_FOLDERS = frozenset({
    "beit", "clip", "clipseg", "convnext", "convnextv2", "data2vec", "deit", "depth_anything", "dinov2",
    "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "dpt", "eomt", "eomt_dinov3", "focalnet",
    "grounding_dino", "groupvit", "idefics3", "internvl", "llama4", "llava", "mask2former", "maskformer", "mllama",
    "oneformer", "owlv2", "owlvit", "paligemma", "pixtral", "pvt", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "rf_detr",
    "sam", "sam3", "sam_hq", "seggpt", "siglip", "siglip2", "swin", "swinv2", "timesformer", "upernet", "videomae",
    "videomt", "videoprism", "vilt", "vit", "vit_mae", "vitdet", "vivit", "vjepa2", "yolos", "zoedepth",
})

# Structure or the forward pass stands in the way, as the tests or `support` say.
REFUSED_FOLDERS = frozenset({
    "depth_pro", "gemma4", "hiera", "kosmos2_5", "mobilevit", "neomme", "pix2struct", "resnet", "sam2",
    "segformer", "tvp", "vitmatte", "vitpose",
})

# Nobody has encrypted one: `encrypt_model` asks for a proof with example inputs, or refuses it by its structure.
UNTESTED_FOLDERS = frozenset({
    "aimv2", "align", "altclip", "apertus1p5", "aria", "aya_vision", "bit", "blip", "blip_2", "bridgetower",
    "chameleon", "chinese_clip", "chmv2", "cohere2_vision", "cohere_compass", "colmodernvbert", "colpali",
    "colqwen2", "conditional_detr", "cosmos3_edge", "cosmos3_omni", "cvt", "d_fine", "dab_detr", "deepseek_ocr2",
    "deepseek_vl", "deepseek_vl_hybrid", "deformable_detr", "deimv2", "detr", "diffusion_gemma", "dinat", "donut",
    "dots3_note", "edgetam", "efficientloftr", "efficientnet", "embedding_gemma2", "emu3", "ernie4_5_vl_moe",
    "exaone4_5", "fast_vlm", "flava", "florence2", "fuyu", "gemma3", "gemma3n", "gemma4_unified", "git", "glm46v",
    "glm4v", "glm4v_moe", "glm5_next", "glm_image", "glm_ocr", "glpn", "got_ocr2", "granite4_vision",
    "granite_docling", "hgnet_v2", "hunyuan_vl", "hy_v4_vl", "hyperclovax_vision_v2", "idefics", "idefics2",
    "ijepa", "inkling", "inkling2", "inkling2_loop", "instructblip", "instructblipvideo", "janus", "kimi_k25",
    "kosmos2", "layoutlmv3", "levit", "lfm2_vl", "lfm3_vl", "lightglue", "lighton_ocr", "llava_next",
    "llava_next_video", "llava_onevision", "lw_detr", "metaclip_2", "mgp_str", "minicpm_ocr", "minicpmv4_6",
    "minicpmv4_7", "minimax_m3_vl", "mistral3", "mistral_large4", "mlcd", "mm_grounding_dino", "mobilenet_v1",
    "mobilenet_v2", "mobilevitv2", "modernvbert", "molmo2", "muse_glimmer", "muse_spark", "nemotron_h_omni",
    "omdet_turbo", "ovis2", "paddleocr_vl", "pe_audio_video", "pe_video", "perceiver", "perception_lm",
    "phi4_multimodal", "pi0", "pixio", "poolformer", "pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4",
    "pp_formulanet", "pp_lcnet", "pp_lcnet_v3", "pp_lcnet_v4", "pp_ocrv5_mobile_det", "pp_ocrv5_mobile_rec",
    "pp_ocrv5_server_det", "pp_ocrv5_server_rec", "pp_ocrv6_medium_det", "pp_ocrv6_small_det",
    "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec", "prompt_depth_anything", "pvt_v2", "qianfan_ocr", "qwen2_5_omni",
    "qwen3_5", "qwen3_5_moe", "qwen3_vl_moe", "qwen4_exp", "radio", "regnet", "rt_detr", "rt_detr_v2",
    "sam3_lite_text", "sam3_tracker", "sapiens2", "shieldgemma2", "slanet", "slanext", "smolvlm", "step3p7",
    "superglue", "superpoint", "swiftformer", "swin2sr", "t5gemma2", "table_transformer", "textnet",
    "timm_backbone", "timm_wrapper", "tipsv2", "tipsv2_dpt", "udop", "ultravbert", "unlimited_ocr", "uvdoc",
    "video_llama_3", "video_llava", "vipllava", "vision_encoder_decoder", "vision_text_dual_encoder", "vit_msn",
    "vitpose_backbone", "x_clip",
})
# fmt: on
