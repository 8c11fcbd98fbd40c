"""Vocabulary: hints about categories, and nouns for kinds of things.

Hints are about the category, never about one image: "makes urine" is true of every kidney. They read after "that",
name nothing, and are written so that a rival of another category is excluded.
"""

from medground.data.category_names import kind_of, words_of

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


def hints_of(category: str) -> tuple[str, ...]:
    """Return the hints of a category: those of the longest known name whose words are all in it.

    None where it is a lesion of a known organ: what is true of a kidney is not true of its tumour.
    """
    words = {form for word in words_of(category) for form in (word, word.removesuffix("s"))}
    fitting = [name for name in HINTS if set(name.split()) <= words and kind_of(name) == kind_of(category)]
    return HINTS[max(fitting, key=len)] if fitting else ()
