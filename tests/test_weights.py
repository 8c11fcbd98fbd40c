import io
import json
import struct
import subprocess
import sys
import zipfile

import pytest

from medground.errors import InputError, RecipeError
from medground.segmenters.weight_files import check_settings, read_json

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from medground.segmenters.weights import check_finite, check_whole, find_weights, frozen, load_strictly, read_weights  # noqa: E402


def model() -> "torch.nn.Module":
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_reading_module_loads_no_torch():
    code = "import sys, medground.segmenters.weights, medground.segmenters.batching; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["m.pth", "m.safetensors"])
@pytest.mark.parametrize(
    "before",
    ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module.", "model.", "sam.", "net.model._orig_mod."],
)
def test_every_format_takes_off_what_training_puts_before_names(tmp_path, before, file):
    state = {"encoder.weight": torch.ones(2), "decoder.weight": torch.zeros(3)}
    path = write({before + key: value for key, value in state.items()}, tmp_path / file)
    assert same(read_weights(path, ["encoder"]), state)


def test_parts_inside_names_are_taken_off_and_others_stay(tmp_path):
    state = {"encoder._orig_mod.weight": torch.ones(2), "loss.module.weight": torch.ones(1)}
    assert read_weights(write(state, tmp_path / "m.pth"), ["encoder"]).keys() == {"encoder.weight", "loss.weight"}
    state = {"sam.encoder.weight": torch.ones(2), "loss.weight": torch.ones(1)}
    assert read_weights(write(state, tmp_path / "m.pth"), ["encoder"]).keys() == {"encoder.weight", "loss.weight"}
    assert read_weights(tmp_path / "m.pth").keys() == state.keys()


@pytest.mark.parametrize("file", ["m.pth", "m.safetensors"])
def test_two_models_in_one_file_are_refused(tmp_path, file):
    state = {"a.encoder.weight": torch.ones(2), "b.encoder.weight": torch.ones(2)}
    with pytest.raises(InputError, match="holds more than one model, under a, b"):
        read_weights(write(state, tmp_path / file), ["encoder"])
    state = {"encoder.weight": torch.ones(2), "_orig_mod.encoder.weight": torch.ones(2)}
    with pytest.raises(InputError, match="holds two tensors of one name"):
        read_weights(write(state, tmp_path / file), ["encoder"])


def test_an_unknown_wrapper_is_named(tmp_path):
    torch.save({"network": model().state_dict(), "epoch": 3}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="it holds 2 names, such as epoch, network"):
        read_weights(tmp_path / "m.pth")


def test_the_nearest_of_several_wrappers_is_opened(tmp_path):
    torch.save({"checkpoint": {"state_dict": {"model": model().state_dict()}}}, tmp_path / "m.pth")
    assert same(read_weights(tmp_path / "m.pth"), dict(model().state_dict()))


def test_only_the_tensors_that_are_wanted_are_read(tmp_path):
    torch.save(
        {"model": model().state_dict(), "optimizer": {"state": {0: torch.full((500,), 0.5)}}}, tmp_path / "m.pth"
    )
    content = tmp_path.joinpath("m.pth").read_bytes()
    at = content.index(torch.full((500,), 0.5).numpy().tobytes())
    tmp_path.joinpath("m.pth").write_bytes(content[:at] + b"x" + content[at + 1 :])
    assert same(read_weights(tmp_path / "m.pth"), dict(model().state_dict()))


def test_a_damaged_byte_of_a_tensor_is_noticed(tmp_path):
    torch.save({"a": torch.full((500,), 0.5)}, tmp_path / "m.pth")
    content = tmp_path.joinpath("m.pth").read_bytes()
    at = content.index(torch.full((500,), 0.5).numpy().tobytes())
    tmp_path.joinpath("m.pth").write_bytes(content[: at + 9] + b"x" + content[at + 10 :])
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_and_layout_is_read_as_torch_reads_it(tmp_path, zipped):
    whole = torch.arange(24.0)
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    state = {name: torch.arange(6).to(getattr(torch, name)) for name in dtypes}
    state |= {"view": whole[3:9].view(2, 3), "transposed": whole.view(4, 6).t(), "empty": torch.zeros(0, 3)}
    state |= {"number": torch.tensor(2.5), "parameter": torch.nn.Parameter(torch.ones(2)), "strided": whole[::5]}
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    loaded, expected = read_weights(tmp_path / "m.pth"), torch.load(tmp_path / "m.pth", weights_only=True)
    assert same(loaded, expected)
    assert {key: value.dtype for key, value in loaded.items()} == {key: value.dtype for key, value in expected.items()}


def test_weights_behind_one_prefix_are_refused_with_what_to_save_instead():
    state = model().state_dict()
    with pytest.raises(InputError, match=r"begins with 'base\.': save that part alone, MODEL\.base\.save_pretrained"):
        load_strictly(model(), {f"base.{name}": tensor for name, tensor in state.items()}, "m.pth")
    with pytest.raises(InputError, match=r"1 missing: 0\.bias; 1 unexpected: base\.0\.bias.*fetch RECIPE"):
        load_strictly(model(), {f"base.{n}" if n == "0.bias" else n: t for n, t in state.items()}, "m.pth")


def test_weights_that_are_not_finite_are_named():
    state = dict(model().state_dict())
    for number in (float("nan"), float("inf"), float("-inf")):
        broken = state | {"0.bias": torch.tensor([0.0, 1.0, number, 2.0])}
        with pytest.raises(InputError, match=r"m\.pth holds NaN or infinity in 1 tensors: 0\.bias"):
            load_strictly(model(), broken, "m.pth")
    load_strictly(model(), state, "m.pth")
    with pytest.raises(InputError, match="NaN or infinity"):
        check_finite([("a", torch.tensor([float("nan")]).to(torch.float8_e4m3fn))], "m.pth")


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes(tmp_path, wrap, prefix):
    state = model().state_dict()
    named = {prefix + key: value for key, value in state.items()}
    torch.save({wrap: named, "epoch": 3} if wrap else named, tmp_path / "m.pth")
    assert same(read_weights(tmp_path / "m.pth"), dict(state))


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_a_pickled_optimizer_object_beside_the_weights(tmp_path, optimizer):
    trained = model()
    stepper = getattr(torch.optim, optimizer)(trained.parameters(), lr=0.1)
    trained(torch.ones(2, 3)).square().sum().backward()
    stepper.step()
    torch.save({"model": trained.state_dict(), "optimizer": stepper, "epoch": 1}, tmp_path / "m.pth")
    with pytest.raises(Exception, match="Unsupported"):
        torch.load(tmp_path / "m.pth", weights_only=True)
    assert same(read_weights(tmp_path / "m.pth"), dict(trained.state_dict()))
    with pytest.raises(Exception, match="Unsupported"):  # the permission does not outlive the call
        torch.load(tmp_path / "m.pth", weights_only=True)


class Trap:
    def __reduce__(self):
        return (print, ("ran",))


def test_other_objects_are_refused_and_never_run(tmp_path, capsys):
    torch.save({"model": model().state_dict(), "extra": Trap()}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"m\.pth holds .*besides tensors"):
        read_weights(tmp_path / "m.pth")
    torch.save(model(), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.container\.Sequential"):
        read_weights(tmp_path / "whole.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "safetensors"])
def test_truncated_files_are_one_sentence(tmp_path, kind, kept):
    path = tmp_path / f"m.{kind}"
    if kind == "safetensors":
        save_file(model().state_dict(), path)
    else:
        torch.save(model().state_dict(), path, _use_new_zipfile_serialization=kind == "pth")
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(InputError, match=path.name) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
def test_a_pointer_of_git_lfs_is_called_that(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    with pytest.raises(InputError, match=rf"{name} is a git-LFS pointer.*git -C \S+ lfs pull"):
        read_weights(tmp_path / name)


def test_a_truncated_safetensors_file_says_how_much_is_missing(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(model().state_dict(), path)
    data = path.read_bytes()
    check_whole(path)
    check_whole(tmp_path)
    path.write_bytes(data[:-1])
    for place in (path, tmp_path):
        with pytest.raises(InputError, match=rf"truncated: {len(data) - 1} of at least {len(data)} bytes"):
            check_whole(place)


@pytest.mark.parametrize("size", [8, 107])
def test_a_safetensors_header_that_is_cut_says_how_much_is_missing(tmp_path, size):
    (tmp_path / "m.safetensors").write_bytes((100).to_bytes(8, "little") + b" " * (size - 8))
    with pytest.raises(InputError, match=f"truncated: {size} of at least 108 bytes"):
        check_whole(tmp_path / "m.safetensors")


def test_a_tensor_of_an_unknown_dtype_is_one_sentence(tmp_path):
    header = json.dumps({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(InputError, match=r"m\.safetensors is not a readable safetensors file"):
        read_weights(tmp_path / "m.safetensors")


LONGEST = 16 * 2**20


def end_of_archive(length, start=0, count=0):
    """The last record of a zip archive: how long its directory is, and where it starts."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, start, 0)


def wide_end(length, start=0, count=0):
    """The record of the same in 64 bits, which goes before it."""
    return struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)


@pytest.mark.parametrize("wide", [False, True])
def test_an_archive_with_a_long_directory_is_refused_before_it_is_read(tmp_path, wide):
    for length, refusal in ((LONGEST + 1, "its directory is 16,777,217 bytes long"), (LONGEST, "is damaged")):
        end = wide_end(length) + end_of_archive(0xFFFFFFFF) if wide else end_of_archive(length)
        (tmp_path / "m.pth").write_bytes(b"PK\3\4" + bytes(96) + end)
        with pytest.raises(InputError, match=refusal) as error:
            check_whole(tmp_path / "m.pth")
        assert ("its directory" in error.value.message) == (length > LONGEST)


def test_an_archive_whose_directory_is_stated_in_64_bits_is_read(tmp_path):
    torch.save(dict(model().state_dict()), tmp_path / "m.pth")
    data = (tmp_path / "m.pth").read_bytes()
    count, length, start = struct.unpack("<HLL", data[-12:-2])
    body = data[: start + length]
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body), 1)
    last = end_of_archive(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF)
    (tmp_path / "m.pth").write_bytes(body + wide_end(length, start, count) + locator + last)
    assert same(read_weights(tmp_path / "m.pth"), dict(model().state_dict()))


def archive():
    """The record of a zip archive of one file of 1000 bytes, and the entry of its directory."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        writer.writestr("a/data.pkl", bytes(1000))
    data = stream.getvalue()
    length, start = struct.unpack("<LL", data[-10:-2])
    return data[:start], data[start : start + length]


def test_records_that_share_their_bytes_are_refused(tmp_path):
    body, entry = archive()
    data = body + entry * 3 + end_of_archive(3 * len(entry), len(body), 3)
    (tmp_path / "m.pth").write_bytes(data)
    with pytest.raises(InputError, match=f"its 3 records promise 3,000 bytes in a file of {len(data):,}"):
        check_whole(tmp_path / "m.pth")


@pytest.mark.parametrize(("at", "value"), [(8, b"\1\0"), (10, b"\x08\0"), (20, b"\xe7\3\0\0")])
def test_records_that_are_encrypted_or_compressed_are_refused(tmp_path, at, value):
    """Flag 1 is encryption, method 8 is deflation, and 999 bytes for 1000 are neither."""
    body, entry = archive()
    changed = entry[:at] + value + entry[at + len(value) :]
    (tmp_path / "m.pth").write_bytes(body + changed + end_of_archive(len(entry), len(body), 1))
    with pytest.raises(InputError, match="holds compressed records, which PyTorch does not write"):
        check_whole(tmp_path / "m.pth")


def test_a_configuration_has_at_most_4_mib(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{}".ljust(4_194_304))
    assert read_json(path) == {}
    path.write_bytes(b"{}".ljust(4_194_305))
    with pytest.raises(InputError, match="larger than 4,194,304 bytes"):
        read_json(path)


def test_a_number_of_a_configuration_is_at_most_2_to_the_40(tmp_path):
    check_settings({"rope": 1_099_511_627_776, "deep": [{"base": -1_099_511_627_776}]}, tmp_path / "config.json", 9)
    for number in (1_099_511_627_777, -1_099_511_627_777, float("nan")):
        with pytest.raises(InputError, match=r"config\.json has 'deep\.base': .*which no model of 9 tensors has"):
            check_settings({"deep": [{"base": number}]}, tmp_path / "config.json", 9)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(40)]
)
def test_wrong_files_are_one_sentence(tmp_path, content):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"lr": 0.1, "a": torch.ones(1)}, torch.ones(3)])
def test_what_is_no_dictionary_of_weights(tmp_path, content):
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match="dictionary of weights"):
        read_weights(tmp_path / "m.pth")


def test_folders_and_shards(tmp_path):
    state = model().state_dict()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        read_weights(tmp_path)
    parts = [dict(list(state.items())[:2]), dict(list(state.items())[2:])]
    for number, part in enumerate(parts, 1):
        save_file(part, tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert same(read_weights(tmp_path), dict(state))
    save_file(state, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path), dict(state))


def test_strict_loading_names_every_difference():
    state = dict(model().state_dict())
    del state["0.bias"]
    state["0.weight"] = torch.zeros(4, 5)
    state["2.extra"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        load_strictly(model(), state, "m.pth")
    text = str(caught.value)
    assert "m.pth" in text and "1 missing: 0.bias" in text and "1 unexpected: 2.extra" in text
    assert "1 of another shape: 0.weight (4x5, expected 4x3)" in text


def test_where_checkpoints_are_found(tmp_path, monkeypatch):
    file = tmp_path / "medsam_vit_b.pth"
    file.touch()
    assert find_weights(file) == file and find_weights(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match=r"does not exist.*did you mean 'medsam_vit_b.pth'"):
        find_weights(tmp_path / "medsam_vit_B.pth")
    with pytest.raises(InputError, match=r"the checkpoint of_no_owner\.pth does not exist"):
        find_weights("of_no_owner.pth")


def test_the_hub_cache_is_read_and_nothing_is_downloaded(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="neither a file here nor a model in the local hub cache"):
        find_weights("someone/some-model")
    snapshot = tmp_path / "models--someone--some-model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    save_file(model().state_dict(), snapshot / "model.safetensors")
    refs = tmp_path / "models--someone--some-model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    assert same(read_weights(find_weights("someone/some-model")), dict(model().state_dict()))
    assert find_weights("someone/some-model/model.safetensors@" + "a" * 40).name == "model.safetensors"
    with pytest.raises(InputError, match="neither"):
        find_weights("someone/some-model/other.pt")


def test_frozen_models():
    ready = frozen(model().train(), device="cpu", dtype="bfloat16")
    assert not ready.training and not any(parameter.requires_grad for parameter in ready.parameters())
    assert next(ready.parameters()).dtype == torch.bfloat16
    with pytest.raises(RecipeError, match="'gpu' is no device"):
        frozen(model(), device="gpu", dtype="float32")
    with pytest.raises(RecipeError, match="did you mean 'float16'"):
        frozen(model(), device="cpu", dtype="float61")
