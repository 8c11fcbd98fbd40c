"""Questions that hint at a region and never name it: by place, by look, by what it does, by why one would ask.

``{place}`` becomes left, right, upper or lower, ``{there}`` the same as a phrase, ``{tone}`` bright or dark. Left and
right are those of the picture. Every question about a thing that has a rival in its picture says which one is meant.
"""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "liver": (
        "Which large area in the {there} would make bile?",
        "What broad grey region takes up most of the {there}?",
        "Where would a raised enzyme test after heavy drinking make you look?",
        "Which large, even-textured structure lies under the ribs in the {there}?",
        "Which region would a needle enter when jaundice needs a tissue sample?",
        "What is the biggest solid thing in this slice?",
        "Which large region cleans the blood that comes from the gut?",
    ),
    "spleen": (
        "Which curved region hugs the outer wall in the {there}?",
        "What might have burst after a fall onto the ribs on the {place}?",
        "Which crescent in the {there} filters worn-out blood cells?",
        "Where would you look when glandular fever makes the {place} side of the belly tender?",
        "Which curved, even-textured band lies against the ribs in the {there}?",
        "Which region is taken out when platelets keep being destroyed?",
    ),
    "kidney": (
        "Which bean-shaped region in the {there} makes urine?",
        "What bright structure beside the spine in the {there} would swell if its drain were blocked?",
        "Where would pain in the {place} flank with blood in the urine come from?",
        "Which bright, notched region lies deep in the {there}?",
        "Which of the two paired bright regions is the {place} one?",
        "What in the {there} takes up contrast first and clears it into the bladder?",
        "Which bright bean next to the back muscles is on the {place}?",
    ),
    "tumour": (
        "Which {tone} patch in the {there} does not belong there?",
        "What in the {there} would you want a biopsy of?",
        "Which small, irregular {tone} region on the {place} looks suspicious?",
        "Where in the {there} is normal tissue being replaced?",
        "What {tone} finding on the {place} would the report warn about?",
        "Which irregular {tone} area in the {there} has grown since last year?",
        "What unexpected {tone} spot in the {there} explains the weight loss?",
    ),
    "ventricle": (
        "Which dark curved space is on the {place} of the midline?",
        "Where does clear fluid collect in the {there}?",
        "Which dark, horn-shaped cavity lies in the {there}?",
        "What on the {place} would widen if drainage were blocked?",
        "Which of the two long dark spaces near the middle is the {place} one?",
        "Where on the {place} would a shunt be placed to relieve pressure?",
    ),
    "lung": (
        "Which large dark field fills with air in the {there}?",
        "What large dark region behind the ribs is on the {place}?",
        "Which side of breathing is shown as a large dark area in the {there}?",
        "Where would a stethoscope on the {place} listen to breath sounds?",
        "What would collapse if air leaked into the {place} side of the chest?",
        "Which of the two large dark fields is the {place} one?",
    ),
    "heart": (
        "Which large bright shadow in the middle pumps blood?",
        "What bright region near the centre would be enlarged in a failing circulation?",
        "Which bright, rounded shadow rests on the diaphragm?",
        "Where does the beat that a pulse shows begin?",
        "What large bright structure lies between the two dark fields?",
        "Which region is measured against the width of the chest?",
    ),
    "clavicle": (
        "Which bright strut runs from the breastbone to the shoulder in the {there}?",
        "What long thin bright bar near the {place} shoulder breaks in a fall on an outstretched arm?",
        "Which slender bright line crosses the top of the chest on the {place}?",
        "What would a sling on the {place} be treating?",
        "Which long, gently curved bright band lies above the dark field on the {place}?",
        "What bony bar can be felt under the skin at the top of the chest on the {place}?",
    ),
    "opacity": (
        "Which hazy bright patch in the {there} explains the cough?",
        "What {tone} cloud on the {place} should hold air and does not?",
        "Where in the {there} might there be an infection?",
        "Which irregular white area among the ribs is on the {place}?",
        "What bright shadow in the {there} would make you ask about fever?",
        "Which {tone} patch on the {place} should be gone after antibiotics?",
        "Where does the dark field on the {place} turn white?",
    ),
    "solid mass": (
        "Which dark grey region casts a shadow behind it?",
        "What on the {place} stops the beam, so that everything below it is dark?",
        "Which irregular grey area in the {there} needs a biopsy?",
        "What firm lump on the {place} would a hand feel?",
        "Which region has a dark stripe beneath it?",
        "Where in the {there} is tissue that weakens the echo?",
    ),
    "cyst": (
        "Which black region has a bright stripe beneath it?",
        "What in the {there} is filled with fluid?",
        "Which black, echo-free pocket lies on the {place}?",
        "What on the {place} would vanish if a needle drew it empty?",
        "Where in the {there} does sound pass without an echo and come out stronger?",
        "Which very dark space with a sharp wall is on the {place}?",
    ),
    "optic disc": (
        "Where do the vessels come together?",
        "Which bright round spot sees nothing?",
        "What pale yellow circle would swell if pressure in the head rose?",
        "Where does the nerve leave the eye?",
        "Which bright round structure is checked for glaucoma?",
        "What round bright area do all the red branches start from?",
    ),
    "atrophy crescent": (
        "Which pale sickle lies beside the round bright spot?",
        "What thin bright curve at the {place} edge goes with strong short sight?",
        "Where has the layer next to the nerve's exit worn away?",
        "Which curved pale rim is on the {place} of the picture?",
        "What bright sliver borders the place where vessels come together?",
        "Which thin pale arc makes the nerve's exit look wider on the {place}?",
    ),
    "exudate": (
        "Which bright yellow patch in the {there} has leaked from vessels?",
        "What fatty, bright deposit lies in the {there}?",
        "Which irregular pale yellow area points to long-standing sugar disease?",
        "Where in the {there} has bright waxy material settled?",
        "What bright finding in the {there} threatens to reach the centre of sight?",
        "Which bright irregular patch in the {there} is not a vessel?",
    ),
    "haemorrhage": (
        "Which dark red patch in the {there} has escaped from a vessel?",
        "What dark blotch lies in the {there}?",
        "Where in the {there} did a vessel burst?",
        "Which irregular dark area in the {there} came with sudden floaters?",
        "What dark stain in the {there} points to poorly controlled blood pressure?",
        "Which dark red region in the {there} should fade within weeks?",
    ),
    "gland": (
        "Which ring of cells around a white hollow is in the {there}?",
        "What in the {there} would secrete into its own white centre?",
        "Where in the {there} do cells line a bright, empty space?",
        "Which bright-centred structure on the {place} is well organised?",
        "What hollow, pale structure lies in the {there}?",
        "Which bright opening in the {there} carries a secretion away?",
    ),
    "tumour nest": (
        "Which crowded dark cluster in the {there} worries you most?",
        "Where in the {there} have the cells lost all order?",
        "What dark purple island lies in the {there}?",
        "Which dense, dark group of cells on the {place} is invading?",
        "Where in the {there} would you count dividing cells?",
        "What dark, packed region in the {there} would decide the grade?",
    ),
    "nodule": (
        "Which {tone} patch on the {place} does not belong there?",
        "What on the {place} needs a biopsy?",
        "What {tone} finding on the {place} would you report?",
        "Where in the {there} has something grown?",
        "Which {tone} spot on the {place} is new?",
        "What in the {there} looks suspicious?",
    ),
}

_SPOTS = (
    "Where is every {tone} patch that does not belong there?",
    "Which {tone} patches, if any, need a biopsy?",
    "What {tone} findings would you report, however many?",
    "Has anything {tone} grown here, and where?",
    "Which {tone} spots are new, if there are any?",
    "Is there anything {tone} that looks suspicious, and where is each?",
)
EVERY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bright nodule", "dark nodule"), _SPOTS),
    "nucleus": (
        "Where is every purple kernel that holds chromosomes?",
        "Which purple spots would a cell count mark?",
        "What has taken up the purple stain, each by itself?",
        "Where are all the purple, rounded bodies?",
        "Which purple kernels does this field show?",
        "What small purple shapes are there, one by one?",
    ),
    "marked nucleus": (
        "Where is every brown kernel, if there is any?",
        "Which cells have taken up the brown stain?",
        "What brown spots would an index of growth count?",
        "Are there brown kernels among the purple, and where?",
        "Which brown, rounded bodies does this field show?",
        "Where has the antibody bound, if anywhere?",
    ),
}
"""Category to questions about everything of its kind, whose answer may be nothing, one thing or many."""


def ask(template: str, side: str, tone: str) -> str:
    """The question of a template.

    >>> ask("Which {tone} patch in the {there} is it?", "upper", "dark")
    'Which dark patch in the upper part of the picture is it?'
    """
    return template.format(place=side, there=f"{side} part of the picture", tone=tone)
