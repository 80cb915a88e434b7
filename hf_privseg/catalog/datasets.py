"""Known data sets: the names and colours of their classes, and how their stored labels become classes.

    cityscapes  19 classes. Segmentation maps hold the 34 raw ids (`*_labelIds.png`), licence plates (-1) as 255 or
                65535, or the 19 classes themselves (`*_labelTrainIds.png`).
    ade20k      the 150 classes of scene parsing. Segmentation maps hold 1 .. 150 for the classes and 0 for the rest.
    camvid      the 11-class version of 480 x 360 pixels. Segmentation maps hold 0 .. 10, and 11 for void.

Cityscapes: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
ADE20K: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
CamVid: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; its 11-class
version: Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017.
Names, order and colours are those of the data sets' own tools; for ADE20K, which has no colours, those that its first
users chose.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelForm:
    """One of several forms in which a data set hands out its segmentation maps.

    Args:
        file_ending: the end of the files' names, without the suffix of the format.
        values: the values that its maps can have, void ones aside.
        label_map: {stored label: class}, for this form; {} for a form that holds no classes.
        description: what the files of a form without classes hold instead.
    """

    file_ending: str
    values: range
    label_map: dict[int, int]
    description: str = ""


@dataclass(frozen=True)
class Preset:
    """The classes of one data set, and how its files store them.

    Args:
        class_names: the names of class 0, 1, ...
        palette: their colours, (red, green, blue) in 0..255.
        label_map: {stored label: class}; other stored labels are void. None where the stored labels are the classes.
        ignore_labels: stored labels that belong to no class.
        reduce_labels: whether a stored 0 is void and a stored k is class k - 1.
        credit: the authors of the data set.
        forms: the forms of its segmentation maps, if there are several; `label_map` is for the first.
    """

    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    label_map: dict[int, int] | None = None
    ignore_labels: tuple[int, ...] = (255,)
    reduce_labels: bool = False
    credit: str = ""
    forms: tuple[LabelForm, ...] = ()


def preset_named(name: str) -> Preset:
    """A name in `PRESETS` -> that preset.

    Raises:
        ValueError: there is no preset of this name; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f"expected one of the presets {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def _colours(hexadecimal: str) -> tuple[Colour, ...]:
    """Colours in six hexadecimal digits, separated by spaces -> (red, green, blue) of each."""
    levels = [bytes.fromhex(colour) for colour in hexadecimal.split()]
    return tuple((red, green, blue) for red, green, blue in levels)


# {raw id: (name, colour)} in the order of the 19 classes
_CITYSCAPES = {
    7: ("road", "804080"),
    8: ("sidewalk", "F423E8"),
    11: ("building", "464646"),
    12: ("wall", "66669C"),
    13: ("fence", "BE9999"),
    17: ("pole", "999999"),
    19: ("traffic light", "FAAA1E"),
    20: ("traffic sign", "DCDC00"),
    21: ("vegetation", "6B8E23"),
    22: ("terrain", "98FB98"),
    23: ("sky", "4682B4"),
    24: ("person", "DC143C"),
    25: ("rider", "FF0000"),
    26: ("car", "00008E"),
    27: ("truck", "000046"),
    28: ("bus", "003C64"),
    31: ("train", "005064"),
    32: ("motorcycle", "0000E6"),
    33: ("bicycle", "770B20"),
}

_CAMVID = {
    "sky": "808080",
    "building": "800000",
    "pole": "C0C080",
    "road": "804080",
    "pavement": "3C28DE",
    "tree": "808000",
    "sign_symbol": "C08080",
    "fence": "404080",
    "car": "400080",
    "pedestrian": "404000",
    "bicyclist": "0080C0",
}

# An underscore stands for a space inside a name.
_ADE20K_NAMES = """
wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth door table mountain
plant curtain chair car water painting sofa shelf house sea mirror rug field armchair seat fence desk rock wardrobe
lamp bathtub railing cushion base box column signboard chest_of_drawers counter sand sink skyscraper fireplace
refrigerator grandstand path stairs runway case pool_table pillow screen_door stairway river bridge bookcase blind
coffee_table toilet flower book hill bench countertop stove palm kitchen_island computer swivel_chair boat bar
arcade_machine hovel bus towel light truck tower chandelier awning streetlight booth television_receiver airplane
dirt_track apparel pole land bannister escalator ottoman bottle buffet poster stage van ship fountain conveyer_belt
canopy washer plaything swimming_pool stool barrel basket waterfall tent bag minibike cradle oven ball food step
tank trade_name microwave pot animal bicycle lake dishwasher screen blanket sculpture hood sconce vase
traffic_light tray ashcan fan pier crt_screen plate monitor bulletin_board shower radiator glass clock flag
"""

_ADE20K_COLOURS = """
787878 B47878 06E6E6 503232 04C803 787850 8C8C8C CC05FF E6E6E6 04FA07 E005FF EBFF07 96053D 787846 08FF33 FF0652
8FFF8C CCFF04 FF3307 CC4603 0066C8 3DE6FA FF0633 0B66FF FF0747 FF09E0 0907E6 DCDCDC FF095C 7009FF 08FFD6 07FFE0
FFB806 0AFF47 FF290A 07FFFF E0FF08 6608FF FF3D06 FFC207 FF7A08 00FF14 FF0829 FF0599 0633FF EB0CFF A09614 00A3FF
8C8C8C FA0A0F 14FF00 1FFF00 FF1F00 FFE000 99FF00 0000FF FF4700 00EBFF 00ADFF 1F00FF 0BC8C8 FF5200 00FFF5 003DFF
00FF70 00FF85 FF0000 FFA300 FF6600 C2FF00 008FFF 33FF00 0052FF 00FF29 00FFAD 0A00FF ADFF00 00FF99 FF5C00 FF00FF
FF00F5 FF0066 FFAD00 FF0014 FFB8B8 001FFF 00FF3D 0047FF FF00CC 00FFC2 00FF52 000AFF 0070FF 3300FF 00C2FF 007AFF
00FFA3 FF9900 00FF0A FF7000 8FFF00 5200FF A3FF00 FFEB00 08B8AA 8500FF 00FF5C B800FF FF001F 00B8FF 00D6FF FF0070
5CFF00 00E0FF 70E0FF 46B8A0 A300FF 9900FF 47FF00 FF00A3 FFCC00 FF008F 00FFEB 85FF00 FF00EB F500FF FF007A FFF500
0ABED4 D6FF00 00CCFF 1400FF FFFF00 0099FF 0029FF 00FFCC 2900FF 29FF00 AD00FF 00F5FF 4700FF 7A00FF 00FFB8 005CFF
B8FF00 0085FF FFD600 19C2C2 66FF00 5C00FF
"""

PRESETS: dict[str, Preset] = {
    "cityscapes": Preset(
        class_names=tuple(name for name, _ in _CITYSCAPES.values()),
        palette=_colours(" ".join(colour for _, colour in _CITYSCAPES.values())),
        label_map={raw_id: index for index, raw_id in enumerate(_CITYSCAPES)},
        ignore_labels=(255, 65535),
        credit="Cityscapes (Cordts et al., CVPR 2016)",
        forms=(
            LabelForm("_labelIds", range(-1, 34), {raw_id: index for index, raw_id in enumerate(_CITYSCAPES)}),
            LabelForm("_labelTrainIds", range(len(_CITYSCAPES)), {k: k for k in range(len(_CITYSCAPES))}),
            LabelForm("_instanceIds", range(-1, 34000), {}, "ids of single objects"),
        ),
    ),
    "ade20k": Preset(
        class_names=tuple(name.replace("_", " ") for name in _ADE20K_NAMES.split()),
        palette=_colours(_ADE20K_COLOURS),
        reduce_labels=True,
        credit="ADE20K (Zhou et al., CVPR 2017)",
    ),
    "camvid": Preset(
        class_names=tuple(_CAMVID),
        palette=_colours(" ".join(_CAMVID.values())),
        ignore_labels=(len(_CAMVID), 255),
        credit="CamVid (Brostow et al., 2009), 11 classes as in SegNet (Badrinarayanan et al., 2017)",
    ),
}
