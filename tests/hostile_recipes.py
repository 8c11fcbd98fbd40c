"""Hostile recipes: each tries to run code, read a secret, leave its folder, or exhaust the machine.

Used by `test_recipe_hostile.py` and `benchmarks/hostile_recipes.py`.
"""

from pathlib import Path

SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "SSH_AUTH_SOCK", "DATABASE_URL")
"""Variables of the environment that recipes below ask for."""
GADGETS = (
    "os.system", "os.popen", "os.execv", "os.spawnl", "subprocess.run", "subprocess.Popen", "subprocess.check_output",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.open",
    "importlib.import_module",
        "runpy.run_path", "pickle.loads", "torch.load", "shutil.rmtree", "pathlib.Path.write_text", "ctypes.CDLL",
    "code.interact",
)  # fmt: skip
PYTHON_TAGS = (
    "!!python/object/apply:os.system", "!!python/object/apply:subprocess.check_output", "!!python/object/new:os.system",
    "!!python/name:os.system", "!!python/module:os", "!!python/tuple",
)  # fmt: skip


def write(folder: Path, canary: Path, secret: str) -> list[Path]:
    """Write the corpus below `folder`; return the recipes to try.

    Args:
        folder: an empty folder.
        canary: a file that appears if any recipe runs its command.
        secret: text put into files that recipes try to reach.
    """
    inside = folder / "inside"
    inside.mkdir()
    (folder / "outside.yaml").write_text(f"reasoner: {secret}\n")
    (folder / "secret.txt").write_text(f"reasoner: {secret}\n")
    (inside / "link.yaml").symlink_to(folder / "outside.yaml")
    (inside / "cycle_b.yaml").write_text("extends: cycle_c\n")
    (inside / "cycle_c.yaml").write_text("extends: cycle\n")
    (inside / "wide.yaml").write_text("extends: [" + "infer/toy, " * 100 + "]\n")
    paths = []
    for name, content in _corpus(f"touch {canary}", folder).items():
        path = inside / f"{name}.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return paths


def _corpus(command: str, folder: Path) -> dict[str, str | bytes]:
    return {
        **{f"bomb_{depth}": _bomb(depth, width) for depth, width in ((5, 10), (9, 7), (28, 2))},
        **{f"python_{i}": f"seed: 1\nreasoner:\n  name: {tag} [{command!r}]\n" for i, tag in enumerate(PYTHON_TAGS)},
        **{f"environment_{i}": f"reasoner:\n  name: ${{oc.env:{name}}}\n" for i, name in enumerate(SECRETS)},
        "environment_key": "${oc.env:HF_TOKEN}: 1\n",
        "environment_nested": "segmenter: {name: x, a: ['${oc.decode:${oc.env:HF_TOKEN}}']}\n",
        "environment_variant": "variants: {a: {seed: '${oc.env:HF_TOKEN}'}}\n",
        "environment_extends": "extends: ${oc.env:HF_TOKEN}\n",
        "target": f"segmenter:\n  _target_: os.system\n  command: {command!r}\n",
        "target_gadgets": "segmenter: region_growing\nsampling:\n"
        + "".join(f"  x{i}: {{_target_: {gadget}, args: [{command!r}]}}\n" for i, gadget in enumerate(GADGETS)),
        "target_top": f"_target_: os.system\n_args_: [{command!r}]\n",
        "component": f"_component_: os.system\ncommand: {command!r}\n",
        "merge_loop": "segmenter: &a\n  name: x\n  <<: *a\n",
        "merge_chain": "a: &a {x: 1}\nb: &b {<<: *a}\nc: {<<: [*a, *b]}\n",
        "self_alias": "segmenter: &a [*a]\n",
        "many_aliases": "seed: &a 1\ntrackers: [" + "*a, " * 100 + "]\n",
        "self": "extends: self\n",
        "cycle": "extends: cycle_b\n",
        "too_wide": "extends: wide\n",
        "escape_up": "extends: ../outside\n",
        "escape_far": "extends: ../../../../../../etc/passwd\n",
        "escape_text": "extends: ../secret.txt\n",
        "escape_absolute": f"extends: {folder / 'outside.yaml'}\n",
        "escape_link": "extends: link\n",
        "escape_home": "extends: ~/.ssh/config\n",
        "big_scalar": b"reasoner: " + b"x" * 10_000_000,
        "long_key": "k" * 50_000 + ": 1\n",
        "long_name": "segmenter: " + "k" * 50_000 + "\n",
        "long_base": "extends: " + "k" * 50_000 + "\n",
        "big_number": "seed: " + "9" * 50_000 + "\n",
        "deep": "segmenter: " + "[" * 5000 + "]" * 5000 + "\n",
        "deep_keys": "\n".join(" " * level + "k:" for level in range(300)) + " 1\n",
        "many_values": "trackers: [" + "a," * 40_000 + "]\n",
        "many_unknown": "".join(f"key{i}: 1\n" for i in range(1400)),
        "duplicate": "seed: 1\nseed: 2\n",
        "duplicate_deep": "segmenter:\n  name: toy\n  a: 1\n  'name': os.system\n",
        "unknown": "segmentor: toy\n",
        "nan": "sampling: {temperature: .nan}\n",
        "infinite": "sampling: {temperature: -.INF}\n",
        "overflow": "sampling: {temperature: 1e999}\n",
        "cyrillic": "s\u0435gmenter: toy\n",
        "full_width": "\uff53\uff45\uff45\uff44: 1\n",
        "invisible": "se\u200bed: 1\n",
        "terminal": 'reasoner: "\\e]0;owned\\a\\e[2J"\n',
        "direction": "reasoner: toy\u202eyot\n",
        "not_text": b"reasoner: \xff\xfe\n",
        "nul": "extends: \"a\\0b\"\n",
        "surrogate": 'reasoner: "\\ud800"\n',
        "two_documents": "seed: 1\n---\nseed: 2\n",
        "complex_key": "? [a, b]\n: 1\n",
        "directive": "%TAG ! tag:yaml.org,2002:python/name:\n---\nreasoner: !os.system x\n",
    }  # fmt: skip


def _bomb(depth: int, width: int) -> str:
    lines = ["trackers:", "- &a0 lol"]
    lines += [f"- &a{level + 1} [{', '.join([f'*a{level}'] * width)}]" for level in range(depth)]
    return "\n".join(lines) + "\n"
