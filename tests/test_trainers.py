"""Our rewards inside other trainers: TRL calls them through its own code, verl by its documented arguments."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import medground
from medground.errors import InputError, RunError
from medground.images.rle import encode_rle

BOX = {"bbox_2d": [10, 20, 40, 60], "point_2d": [[20, 30], [30, 50]]}
GOOD, HALF, BAD = (
    f'<think>a</think><answer>{{"bbox": {box}, "points_1": [20, 30], "points_2": [30, 50]}}</answer>'
    for box in ([10, 20, 40, 60], [10, 20, 40, 40], "none")
)


@pytest.fixture(scope="module")
def pipeline():
    return medground.load("infer/toy", "segmenter=box_fill", "prompt=box")


def truth(**more):
    return json.dumps({**BOX, **more})


def trl_rewards(functions, prompts, completions, **columns):
    """The [N, F] rewards that TRL's trainer computes with its own method, from rows as its data loader gives them."""
    from trl import GRPOTrainer  # takes seconds, which only these tests need

    rows = [{name: values[index] for name, values in columns.items()} for index in range(len(prompts))]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=False),
        reward_funcs=functions,
        reward_processing_classes=[None] * len(functions),
        reward_func_names=[function.__name__ for function in functions],
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(report_to=[]),
        environments=None,
        _log_completion_extra=lambda column, values: None,
        _log_metric=lambda name, value: None,
    )
    ids = [[1, 2, 3]] * len(prompts)
    return GRPOTrainer._calculate_rewards(trainer, rows, prompts, completions, ids)


def test_trl_calls_a_term_with_conversations_and_pictures(pipeline):
    image = Pillow.new("RGB", (100, 80))
    prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]] * 3
    completions = [[{"role": "assistant", "content": text}] for text in (GOOD, HALF, BAD)]
    function = medground.to_trl(medground.build("reward", "bbox_iou"), pipeline)
    rewards = trl_rewards([function], prompts, completions, images=[[image]] * 3, ground_truth=[truth()] * 3)
    assert rewards.tolist() == [[1.0], [0.5], [0.0]]
    assert function.__name__ == "BboxIou"


def test_trl_calls_a_rubric_with_plain_text_and_masks_are_made(pipeline):
    mask = np.zeros((80, 100), bool)
    mask[20:60, 10:40] = True
    rubric = medground.rubric({"rewards": {"mask_dice": 1.0, "format_seg": 0.5}})
    columns = {"image": [np.zeros((80, 100), np.uint8)] * 2, "ground_truth": [truth(mask=encode_rle(mask))] * 2}
    rewards = trl_rewards([medground.to_trl(rubric, pipeline)], ["Where?"] * 2, [GOOD, HALF], **columns)
    assert rewards.flatten().tolist() == pytest.approx([1.5, 2 * 600 / 1800 + 0.5])


def test_trl_leaves_out_what_a_term_abstains_from(pipeline):
    function = medground.to_trl(lambda rollout: None, pipeline)
    other = medground.to_trl(medground.build("reward", "bbox_iou"), pipeline)
    rewards = trl_rewards([function, other], ["Where?"], [GOOD], size=[[80, 100]], ground_truth=[truth()])
    assert rewards.isnan().tolist() == [[True, False]]


def test_the_truth_of_a_row_may_be_several_targets_or_none():
    listed = medground.load("infer/toy", "prompt_interface=regions", "prompt_interface.points=false")
    reward = medground.to_trl(medground.build("reward", "regions_f1"), listed)
    two = '[{"bbox": [0, 0, 8, 8]}, {"bbox": [20, 20, 30, 30]}]'
    texts = [f"<answer>{answer}</answer>" for answer in (two, "[]", "[]", two)]
    truths = [[{"bbox_2d": [20, 20, 30, 30]}, {"bbox_2d": [0, 0, 8, 8]}], "[]", [{"bbox_2d": [0, 0, 8, 8]}], []]
    rows = {"prompts": ["Where?"] * 4, "size": [[80, 100]] * 4}
    assert reward(completions=texts, ground_truth=truths, **rows) == [1.0, 1.0, 0.0, 0.0]


def test_the_frame_of_the_model_is_given_where_the_pipeline_has_another_reasoner(pipeline):
    def permille(size):
        return medground.Frame("permille", size)

    function = medground.to_trl(medground.build("reward", "bbox_iou"), pipeline, frame=permille)
    text = '<think>a</think><answer>{"bbox": [100, 250, 400, 750], "points_1": [200, 375], "points_2": [300, 625]}</answer>'
    assert function(prompts=["?"], completions=[text], size=[[80, 100]], ground_truth=[BOX]) == [1.0]


def test_verl_gets_the_total_and_every_term(pipeline):
    rubric = medground.rubric({"rewards": {"bbox_iou": 1.0, "format_seg": 0.5}})
    score = medground.to_verl(rubric, pipeline)
    extra = {"index": 3, "size": [80, 100], "question": "Where?"}
    result = score(data_source="umrg", solution_str=HALF, ground_truth=truth(), extra_info=extra)
    assert result == {"score": 1.0, "bbox_iou": 0.5, "format_seg": 1.0}


def test_every_row_gives_verl_the_same_names(pipeline):
    """It reads them from the first row: a row without one of them would end the step."""
    score = medground.to_verl(medground.rubric({"rewards": {"bbox_iou": 1.0, "mask_dice": 0.5}}), pipeline)
    extra = {"size": [80, 100], "question": "Where?"}
    with_mask = {**json.loads(truth()), "mask": encode_rle(np.ones((80, 100), bool))}
    rows = [score("umrg", HALF, ground_truth, extra) for ground_truth in (with_mask, truth())]
    assert [list(row) for row in rows] == [["score", "bbox_iou", "mask_dice"]] * 2
    assert [np.isnan(row["mask_dice"]) for row in rows] == [False, True]
    assert rows[1]["score"] == rows[1]["bbox_iou"] == 0.5


VERL = """
import importlib.util, inspect, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

spec = importlib.util.spec_from_file_location("custom_module", sys.argv[1])  # as verl loads custom_reward_function.path
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert not inspect.iscoroutinefunction(module.compute_score)
extra = {"size": [10, 20], "index": 0, "num_turns": None, "rollout_reward_scores": {}}
call = partial(
    module.compute_score, data_source="umrg", ground_truth='{"bbox_2d": [0, 0, 8, 4]}', extra_info=extra,
    reward_router_address="127.0.0.1:1", reward_model_tokenizer=None, strict_box_verify=False,
)
ANSWER = '<think>a</think><answer>{"bbox": [0, 0, 8, %d], "points_1": [1, 1], "points_2": [5, 5]}</answer>'
with ThreadPoolExecutor(8) as threads:  # it calls a function that is no coroutine from an executor's threads
    scores = list(threads.map(lambda height: call(solution_str=ANSWER % height)["score"], [8, 4] * 100))
assert scores == [0.5, 1.0] * 100, scores
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""
MODULE = """
import medground

compute_score = medground.to_verl(medground.build("reward", "bbox_iou"), medground.load("infer/toy"))
"""


@pytest.mark.slow
def test_verl_can_load_and_call_it_where_neither_torch_nor_transformers_is_imported(tmp_path):
    (tmp_path / "score.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", VERL, str(tmp_path / "score.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_verl_is_told_why_there_is_no_score(pipeline):
    def broken(rollout):
        raise ZeroDivisionError("nothing to divide by")

    with pytest.raises(RunError, match="an answer to umrg data has no score: term 'function' raised ZeroDivisionError"):
        medground.to_verl(broken, pipeline)("umrg", GOOD, truth(), {"size": [80, 100]})


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"ground_truth": [BOX]}, "a row holds neither an image nor its size"),
        ({"size": [[80, 100]], "ground_truth": ["no"]}, "ground_truth is no object: 'no'"),
        ({"size": [[80, 100]], "ground_truth": [{"bbox_2d": [1, 2, 3]}]}, "ground_truth holds no box and points"),
        ({"images": [[np.zeros((4, 4), np.uint8)] * 2], "ground_truth": [BOX]}, "a row holds 2 images"),
    ],
)
def test_a_row_that_lacks_what_a_reward_needs_is_refused(pipeline, row, problem):
    with pytest.raises(InputError, match=problem):
        medground.to_trl(medground.build("reward", "bbox_iou"), pipeline)(prompts=["?"], completions=[GOOD], **row)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of trl and its dependencies
def test_two_steps_of_trls_trainer_train_a_model_on_a_rubric_and_a_term(tiny, pipeline, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    model = AutoModelForImageTextToText.from_pretrained(tiny / "model", dtype=torch.float32)
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    samples = list(medground.open_dataset(tiny / "data", limit=2))
    question = [{"role": "user", "content": "Where is it?"}]
    rows = [{"prompt": question, "ground_truth": truth(), "number": index} for index in range(2)]
    table = Dataset.from_list(rows)
    table.set_transform(
        lambda batch: {**batch, "image": [Pillow.fromarray(samples[index].query.image) for index in batch["number"]]}
    )
    seen = []

    def length(rollout):
        seen.append((rollout.sample.query.size, rollout.sample.target.region.box, rollout.completion.text))
        return 1 / (1 + len(rollout.completion.text))

    length.in_process = True  # it keeps what it saw
    rubric = medground.rubric({"rewards": {"bbox_iou": 1.0}}, rewards={"length": (length, 1.0)})
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=[
            medground.to_trl(rubric, pipeline),
            medground.to_trl(medground.build("reward", "format_seg"), pipeline),
        ],
        args=config,
        train_dataset=table,
        processing_class=AutoProcessor.from_pretrained(tiny / "model"),
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2
    for step, texts in zip(steps, (seen[:4], seen[4:]), strict=True):
        expected = [1 / (1 + len(text)) for _, _, text in texts]  # no box, so that the other terms give 0
        assert step["rewards/bbox_iou_length/mean"] == pytest.approx(sum(expected) / 4, rel=1e-5)
        assert step["rewards/FormatSeg/mean"] == 0.0
    assert {(size, tuple(box)) for size, box, _ in seen} == {((64, 64), tuple(map(float, BOX["bbox_2d"])))}
    assert any(not torch.equal(before[name], values) for name, values in model.named_parameters())
