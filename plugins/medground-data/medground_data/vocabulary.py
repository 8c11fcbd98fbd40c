"""Words of the trade: what kind of thing a category is, what else it is called, and what can be said of it by knowledge.

Hints are about the category, never about one image: "makes urine" is true of every kidney. They read after "that",
name nothing, and are written so that a rival of another category is excluded.
"""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


KINDS: dict[str, frozenset[str]] = {
    "lesion": _set(
        "tumor tumour tumors tumours cancer carcinoma nodule cyst polyp lesion melanoma infection opacity edema oedema "
        "pneumonia glioma mass haemorrhage hemorrhage exudate abscess metastasis fracture effusion plaque ulcer "
        "atrophy nest lesions core finding"
    ),
    "vessel": _set("vessel vessels aorta vein artery cava postcava vasculature"),
    "bone": _set(
        "rib ribs vertebra vertebrae femur hip clavicle mandible bone skull sternum scapula humerus pelvis symphysis "
        "tibia tooth teeth"
    ),
    "cells": _set("cell cells nucleus nuclei gland glands glandular cytoplasm epithelium epithelial stroma"),
}
"""Any other category is a ``structure``."""

NOT_NAMES = _set(
    "left right upper lower middle inner outer anterior posterior superior inferior central peripheral proximal distal "
    "of the one in and or with whole part region area zone structure tissue side largest smallest benign malignant "
    "early late large small normal abnormal hemisphere lobe cavity wall projection other enhancing grade low high "
    "lower-grade higher-grade low-grade high-grade non-enhancing viral bacterial left-sided right-sided white grey "
    "matter solid autochthonous core crescent nest"
)
"""Words of category names that name nothing by themselves."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "liver": ("hepatic",),
    "kidney": ("renal",),
    "lung": ("pulmonary",),
    "heart": ("cardiac",),
    "spleen": ("splenic",),
    "stomach": ("gastric",),
    "bladder": ("vesical",),
    "gallbladder": ("gall bladder",),
    "prostate": ("prostatic",),
    "pancreas": ("pancreatic",),
    "duodenum": ("duodenal",),
    "adrenal": ("suprarenal",),
    "uterus": ("uterine", "womb"),
    "colon": ("colonic",),
    "esophagus": ("oesophagus", "gullet"),
    "brain": ("cerebral",),
    "hippocampus": ("hippocampal",),
    "aorta": ("aortic",),
    "cava": ("caval",),
    "postcava": ("vena cava",),
    "atrium": ("atrial",),
    "ventricle": ("ventricular",),
    "myocardium": ("myocardial", "heart muscle"),
    "vertebra": ("vertebral", "vertebrae"),
    "vertebrae": ("vertebral", "vertebra"),
    "femur": ("femoral", "thigh bone"),
    "mandible": ("mandibular", "jawbone"),
    "clavicle": ("collarbone", "clavicular"),
    "rib": ("costal",),
    "spinal": ("spine",),
    "gluteus": ("gluteal",),
    "disc": ("disk", "papilla"),
    "disk": ("disc", "papilla"),
    "tumor": ("tumour", "neoplasm", "cancer", "carcinoma", "malignancy"),
    "tumour": ("tumor", "neoplasm", "cancer", "carcinoma", "malignancy"),
    "cancer": ("tumor", "tumour", "carcinoma"),
    "glioma": ("tumor", "tumour"),
    "polyp": ("adenoma",),
    "melanoma": ("skin cancer",),
    "cyst": ("cystic",),
    "edema": ("oedema",),
    "oedema": ("edema",),
    "haemorrhage": ("hemorrhage", "bleeding"),
    "hemorrhage": ("haemorrhage", "bleeding"),
    "opacity": ("opacification",),
    "covid-19": ("covid", "coronavirus"),
    "pneumonia": ("pneumonic",),
    "nucleus": ("nuclei", "nuclear"),
    "gland": ("glandular",),
    "glandular": ("gland",),
    "vessel": ("vascular",),
    "fetal": ("foetal", "fetus", "foetus"),
}

HINTS: dict[str, tuple[str, ...]] = {
    "liver": ("makes bile", "clears the blood that comes from the gut", "would explain a raised enzyme test"),
    "kidney": ("makes urine", "filters waste from the blood", "would swell if its drain were blocked"),
    "spleen": ("filters worn-out blood cells", "may burst after a blow to the ribs"),
    "pancreas": ("makes insulin", "is inflamed when a raised lipase comes with pain through to the back"),
    "stomach": ("receives a meal first", "churns food with acid"),
    "duodenum": ("takes up bile just past the outlet of food", "ulcers trouble most often when one is hungry"),
    "gallbladder": ("stores bile", "would hurt after a fatty meal"),
    "adrenal gland": ("makes cortisol", "answers stress with hormones"),
    "urinary bladder": ("holds urine until it is passed", "is seen full before the patient has been to the toilet"),
    "prostate": ("narrows the way out for urine in older men", "is checked when a PSA test comes back raised"),
    "uterus": ("carries a pregnancy", "sheds its lining every month"),
    "colon": ("takes water out of what is left of a meal",),
    "aorta": ("takes all the blood that leaves the heart", "would be dangerous if it widened and tore"),
    "postcava": ("returns the blood of the legs",),
    "inferior vena cava": ("returns the blood of the legs",),
    "lung": ("fills with air", "would collapse if air got around it", "is listened to with a stethoscope for breath"),
    "heart": ("beats", "pumps the blood round the body"),
    "left heart ventricle": ("pushes blood into the body", "has the thickest wall of the four chambers"),
    "left ventricle cavity": ("pushes blood into the body", "is measured for the ejection fraction"),
    "right ventricle": ("pushes blood towards the organs of breathing",),
    "right heart ventricle": ("pushes blood towards the organs of breathing",),
    "left heart atrium": ("collects blood fresh with oxygen",),
    "myocardium": ("contracts with every beat", "is scarred after an infarct"),
    "left ventricular myocardium": ("contracts with every beat", "is scarred after an infarct"),
    "hippocampus": ("stores new memories", "shrinks early in dementia"),
    "white matter": ("wires distant parts of the cortex together", "holds the insulated fibres"),
    "spinal cord": ("carries commands to the legs", "would be pressed on in sudden weakness of both legs"),
    "optic disc": ("sees nothing though all fibres of sight pass it", "swells when pressure in the head rises"),
    "optic cup": ("deepens in glaucoma",),
    "retinal vessel": ("branches over the back of the eye", "narrows or leaks in long-standing sugar disease"),
    "femur": ("bears the body between pelvis and knee", "breaks in a fall of the elderly"),
    "mandible": ("moves when one chews", "holds the lower teeth"),
    "vertebra": ("stacks with others of its kind to carry the trunk",),
    "vertebrae": ("stacks with others of its kind to carry the trunk",),
    "rib": ("guards the chest like a hoop", "would hurt with every breath if it were broken"),
    "clavicle": ("struts the shoulder against the breastbone",),
    "gluteus maximus": ("straightens the leg when one climbs stairs",),
    "pubic symphysis": ("joins the two halves of the pelvis in front",),
    "fetal head": ("leads the way at birth", "is measured to date a pregnancy"),
    "polyp": ("bulges from the lining", "would be snared and removed", "may turn bad over years"),
    "skin lesion": ("would be looked at through a dermatoscope", "has changed the colour of the surface"),
    "melanoma": ("should be cut out without delay", "breaks the rule of even border and colour"),
    "white blood cell": ("fights infection", "surrounds the stained kernel of a defender"),
    "nucleus": ("holds the chromosomes", "takes up the blue of the stain"),
    "gland": ("secretes into its own hollow", "is lined by cells in a row"),
    "glandular structure": ("secretes into its own hollow", "is lined by cells in a row"),
    "inflammatory cells": ("answers an irritation", "gathers where tissue is irritated"),
    "connective tissue cells": ("lends the tissue its frame",),
    "neoplastic cells": ("divides without restraint",),
}
"""Category, or words of it, to hints."""

KIND_HINTS: dict[str, tuple[str, ...]] = {
    "structure": (
        "belongs to the normal anatomy",
        "is labelled in an atlas",
        "should be familiar to a trainee",
        "is shown in drawings of this view",
    ),
    "lesion": (
        "does not belong there",
        "should be mentioned in a report",
        "deserves a closer look",
        "would be measured again at the next visit",
        "explains why this picture was taken",
    ),
    "vessel": ("carries blood", "would bleed if it were cut", "is filled by a contrast agent"),
    "bone": ("is stiffened by calcium", "would show a line if it broke", "gives muscles a hold"),
    "cells": ("interests a pathologist", "takes up the stain in its own way", "would be counted at high power"),
}
"""Said where a category has no hints of its own; they exclude no rival."""

NOUNS: dict[str, tuple[str, ...]] = {
    "structure": ("structure", "region", "area", "part"),
    "lesion": ("finding", "area", "patch", "change"),
    "vessel": ("channel", "band", "structure", "region"),
    "bone": ("structure", "shadow", "part", "region"),
    "cells": ("group", "area", "region", "patch"),
}

VIEWS: dict[str, str] = {
    "ct": "CT slice",
    "mri": "MRI slice",
    "mr": "MRI slice",
    "x-ray": "radiograph",
    "ultrasound": "ultrasound image",
    "endoscopy": "endoscopic view",
    "dermoscopy": "dermoscopic image",
    "pathology": "stained section",
    "microscopy": "microscope field",
    "fundus": "fundus photograph",
    "oct": "OCT image",
    "digital mammography": "mammogram",
    "mammography": "mammogram",
}
"""Modality, lower case, to what one image of it is called; others are a ``picture``."""


def words_of(category: str) -> list[str]:
    """The words of a category, lower case, what stands in brackets aside.

    >>> words_of("Left_lung (upper)")
    ['left', 'lung']
    """
    bare = category.lower().partition("(")[0]
    return [word.strip(",.;:") for word in bare.replace("_", " ").replace("/", " ").split() if word.strip(",.;:")]


def kind_of(category: str) -> str:
    """``lesion``, ``vessel``, ``bone``, ``cells`` or ``structure``.

    >>> kind_of("kidney tumor"), kind_of("kidney left"), kind_of("rib left 9")
    ('lesion', 'structure', 'bone')
    """
    words = set(words_of(category))
    return next((kind for kind, known in KINDS.items() if words & known), "structure")


def names_of(category: str) -> set[str]:
    """Words and phrases that would name the target: those of a lesion's own word, else every word that names.

    >>> sorted(names_of("left kidney")), "kidney" in names_of("kidney cyst")
    (['kidney', 'renal'], False)
    """
    words = [word for word in words_of(category) if not word.isdigit()]
    naming = [word for word in words if word not in NOT_NAMES and len(word) > 2]
    lesions = [word for word in naming if word in KINDS["lesion"]]
    found = set(lesions or naming)
    if not found and words:
        found = {" ".join(words)}
    return found | {other for word in found for other in SYNONYMS.get(word, ())}


def hints_of(category: str) -> tuple[str, ...]:
    """What is known of a category: hints of the longest known name whose words are all in it.

    None where it is a lesion of a known organ: what is true of a kidney is not true of its tumour.
    """
    words = {form for word in words_of(category) for form in (word, word.removesuffix("s"))}
    fitting = [name for name in HINTS if set(name.split()) <= words and kind_of(name) == kind_of(category)]
    return HINTS[max(fitting, key=len)] if fitting else ()
