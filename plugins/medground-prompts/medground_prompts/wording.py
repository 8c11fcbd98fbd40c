"""What a reasoner is told. One text per combination of parts, with and without reasoning, from one schema.

The text is a template: ``{Question}`` stands for the question, ``{Answer}`` for the answer object's form, and the line
``<image>`` for where the image goes.
"""

import re

from medground_prompts.schema import MOST_REGIONS, ChoiceSchema, ListSchema, Schema

IMAGE = "<image>"
THINKING = "<think> thinking process here </think>"
THINK_FIRST = "\nThink first, inside <think></think>, and answer after it."
"""What is added to a question in a model's own way where reasoning is asked for."""
QUESTION = f"{IMAGE}\n{{Question}}"
"""The template that is the question alone."""

_PLACEHOLDER = re.compile(r"\{(Question|Answer)\}")


def template(schema: Schema | ListSchema | ChoiceSchema, *, think: bool) -> str:
    """Return our own template for `schema`: with `think`, reasoning first; without, the answer alone."""
    if isinstance(schema, ChoiceSchema):
        return _reasoning_choice(schema) if think else _direct_choice(schema)
    if isinstance(schema, ListSchema):
        return _reasoning_list(schema) if think else _direct_list(schema)
    return _reasoning(schema) if think else _direct(schema)


def fill(template: str, *, question: str, form: str) -> str:
    """Return the text part of a conversation: placeholders filled in one pass, the image placeholder taken out.

    The image part stands before all text, so whatever surrounded the placeholder is kept and joined.

    >>> fill("<image>\\nQuestion: {Question} As {Answer}.", question="Where {Answer}?", form="{'bbox': []}")
    "\\nQuestion: Where {Answer}? As {'bbox': []}."
    """
    values = {"Question": question, "Answer": form}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], "".join(template.split(IMAGE)))


def _parts(schema: Schema) -> str:
    return " and ".join(["a box"] * schema.box + ["two key points"] * schema.points)


def _keys(schema: Schema) -> str:
    return "\n".join(f'- "{key.name}": {key.form}, {key.meaning}.' for key in schema.keys)


def _count(schema: Schema) -> str:
    return {1: "a single key", 2: "two keys", 3: "three keys"}[len(schema.keys)]


def _direct(schema: Schema) -> str:
    return f"""{IMAGE}
Find the region of this medical image that the question is about and mark it with {_parts(schema)}.
Question: {{Question}}

Output format
Write one <answer></answer> block and nothing else. It holds a JSON object with {_count(schema)}:
{_keys(schema)}

Example output
<answer>{{Answer}}</answer>"""


def _reasoning(schema: Schema) -> str:
    box = "\n- Keep the box as tight as the target allows; leave background out." * schema.box
    points = (
        "\n- The two points differ, lie strictly inside the target and rest on different salient features."
        * schema.points
    )
    return f"""{IMAGE}
Your task is to localise a region in a medical image. It may be an X-ray, CT, MRI, ultrasound, endoscopy, fundus, \
pathology, dermoscopy or mammography image.
The question hints at a region without naming it. As a clinician would, first work out what it is about.
Then reason from what can be seen to the anatomical or pathological region that is meant, and locate it exactly.
Think step by step.
Question: {{Question}}

Guidelines
1. Read the question: let clinical knowledge suggest what the vague wording may refer to.
2. Collect evidence: look at shape, edges, brightness or density, symmetry, texture and heterogeneity.
3. Decide: narrow the candidates down to the one region that fits best.
4. Localise: report {_parts(schema)} for it, and no diagnosis.
5. Settle conflicts: where earlier reasoning and the image disagree, believe the image.

Output format
Write exactly one <think></think> block, immediately followed by exactly one <answer></answer> block.
The think block says how what you see and the context of the question lead to the region.
The answer block is a JSON object with {_count(schema)}:
{_keys(schema)}

Rules
- Write one continuous string, with nothing before, between or after the two blocks.
- Word it with confidence; do not hedge.
- Never leave the answer empty: always give {_parts(schema)}.{box}{points}

Example output
{THINKING}<answer>{{Answer}}</answer>"""


def _listed(schema: ListSchema | ChoiceSchema) -> str:
    return "\n".join(f'- "{key.name}": {key.form}, {key.meaning}.' for key in schema.keys)


def _direct_list(schema: ListSchema) -> str:
    return f"""{IMAGE}
Find every region of this medical image that the question is about; there may be none, one or several.
Question: {{Question}}

Output format
Write one <answer></answer> block and nothing else. It holds a JSON list with an object for each region, at most \
{MOST_REGIONS}, or [] where nothing in the image fits. Keys of an object:
{_listed(schema)}

Example output
<answer>{{Answer}}</answer>"""


def _reasoning_list(schema: ListSchema) -> str:
    box = "\n- Keep each box as tight as its region allows; leave background out." * schema.box
    points = "\n- Key points lie strictly inside their region." * (schema.points is not None)
    return f"""{IMAGE}
Your task is to localise what a question about a medical image means. It may be an X-ray, CT, MRI, ultrasound, endoscopy, \
fundus, pathology, dermoscopy or mammography image.
The question hints at something without naming it. As a clinician would, first work out what it is about.
Then reason from what can be seen: none, one or several regions may fit. Locate each of them exactly.
Think step by step.
Question: {{Question}}

Guidelines
1. Read the question: let clinical knowledge suggest what the vague wording may refer to.
2. Collect evidence: look at shape, edges, brightness or density, symmetry, texture and heterogeneity.
3. Decide: is it there at all, and how often?
4. Localise: report every region that fits, each once, and no diagnosis.
5. Settle conflicts: where earlier reasoning and the image disagree, believe the image.

Output format
Write exactly one <think></think> block, immediately followed by exactly one <answer></answer> block.
The think block says how what you see and the context of the question lead to the answer.
The answer block is a JSON list with an object for each region, at most {MOST_REGIONS}, or [] where nothing in the image \
fits. Keys of an object:
{_listed(schema)}

Rules
- Write one continuous string, with nothing before, between or after the two blocks.
- Write [] only where nothing fits; do not mark anything then.{box}{points}

Example output
{THINKING}<answer>{{Answer}}</answer>"""


def _direct_choice(schema: ChoiceSchema) -> str:
    return f"""{IMAGE}
Candidate regions of this medical image are outlined, each with its number on a plate of the outline's colour. Find the one \
that the question is about; it may be that none is.
Question: {{Question}}

Output format
Write one <answer></answer> block and nothing else. It holds a JSON object with a single key:
{_listed(schema)}

Example output
<answer>{{Answer}}</answer>"""


def _reasoning_choice(schema: ChoiceSchema) -> str:
    return f"""{IMAGE}
Your task is to choose what a question about a medical image means. It may be an X-ray, CT, MRI, ultrasound, endoscopy, \
fundus, pathology, dermoscopy or mammography image. Candidate regions are outlined in it, each with its number on a plate \
of the outline's colour.
The question hints at a region without naming it. As a clinician would, first work out what it is about.
Then reason from what can be seen to the candidate that is meant; it may be that none is.
Think step by step.
Question: {{Question}}

Guidelines
1. Read the question: let clinical knowledge suggest what the vague wording may refer to.
2. Collect evidence: look at shape, edges, brightness or density, symmetry, texture and heterogeneity of each candidate.
3. Decide: is one of the candidates meant, and which?
4. Answer: write its number, and no diagnosis.
5. Settle conflicts: where earlier reasoning and the image disagree, believe the image.

Output format
Write exactly one <think></think> block, immediately followed by exactly one <answer></answer> block.
The think block says how what you see and the context of the question lead to the candidate.
The answer block is a JSON object with a single key:
{_listed(schema)}

Rules
- Write one continuous string, with nothing before, between or after the two blocks.
- Write null only where no candidate fits.

Example output
{THINKING}<answer>{{Answer}}</answer>"""
