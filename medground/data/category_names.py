"""Names of categories: what words name one, what else it is called, and what kind of thing it is."""

import re


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
    """Return the words of a category, lower case, what stands in brackets aside.

    >>> words_of("Left_lung (upper)")
    ['left', 'lung']
    """
    bare = category.lower().partition("(")[0]
    return [word.strip(",.;:") for word in bare.replace("_", " ").replace("/", " ").split() if word.strip(",.;:")]


def kind_of(category: str) -> str:
    """Return the kind: ``lesion``, ``vessel``, ``bone``, ``cells`` or ``structure``.

    >>> kind_of("kidney tumor"), kind_of("kidney left"), kind_of("rib left 9")
    ('lesion', 'structure', 'bone')
    """
    words = set(words_of(category))
    return next((kind for kind, known in KINDS.items() if words & known), "structure")


def names_of(category: str) -> set[str]:
    """Return words and phrases that would name the target: those of a lesion's own word, else every word that names.

    >>> sorted(names_of("left kidney")), "kidney" in names_of("kidney cyst")
    (['kidney', 'renal'], False)
    """
    words = [word for word in words_of(category) if not word.isdigit()]
    naming = [word for word in words if word not in NOT_NAMES and len(word) > 2]
    lesions = [word for word in naming if word in KINDS["lesion"]]
    names = set(lesions or naming)
    if not names and words:
        names = {" ".join(words)}
    return names | {other for word in names for other in SYNONYMS.get(word, ())}


def names_in(text: str, category: str) -> list[str]:
    """Return which names of a category a text holds, in either number, whole words only.

    >>> names_in("Which of the kidneys is larger?", "left kidney"), names_in("Which bean is larger?", "left kidney")
    (['kidney'], [])
    """
    low = text.lower()
    return sorted(name for name in names_of(category) if re.search(rf"\b{re.escape(name)}(?:s|es|'s)?\b", low))
