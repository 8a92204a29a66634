"""Encrypted images: read only with the key, whole, in order, never plain outside the process; the cache."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evaluators.data.sealed import MAGIC, open_sealed, seal, unseal
from spaces.errors import ConfigError, DataError
from tests.data_files import aged, arrays, leave, load, save, several_labels, volumes
from tests.test_data_files import SHARES

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)
    monkeypatch.setenv("PARETOPRUNE_KEY", KEY)
    monkeypatch.delenv("PARETOPRUNE_KEY_FILE", raising=False)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 1000])
def test_sealed_content_comes_back_from_any_place(n: int) -> None:
    content = bytes(i % 251 for i in range(n))
    sealed = seal(content, chunk=64)
    assert unseal(sealed, "x") == content
    assert content[:16] not in sealed or n < 16
    assert seal(content, chunk=64) != sealed
    reader = open_sealed(io.BytesIO(sealed), "x")
    reader.seek(n // 2)
    assert reader.read(70) == content[n // 2 :][:70]


def test_every_change_is_found_out() -> None:
    sealed = seal(bytes(range(256)), chunk=64)
    body, piece = len(sealed) - 4 * 80, 80
    chunks = [sealed[body + i * piece : body + (i + 1) * piece] for i in range(4)]
    swapped = sealed[:body] + b"".join([chunks[1], chunks[0], *chunks[2:]])
    shorter = bytearray(sealed[: body + 3 * piece])
    shorter[body - 8 : body] = (192).to_bytes(8, "big")  # a header that agrees with what was cut
    for bad in (swapped, bytes(shorter), sealed[:-1], sealed[:-80], sealed + b"x", sealed[:20]):
        with pytest.raises(DataError, match=r"cut|damaged or was tampered with"):
            unseal(bad, "x")
    for place in range(len(MAGIC), len(sealed), 7):
        flipped = bytearray(sealed)
        flipped[place] ^= 1
        with pytest.raises(DataError, match="x: "):
            unseal(bytes(flipped), "x")


def test_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("set.npz").write_bytes(seal(Path(save(arrays()).removeprefix("npz:")).read_bytes()))
    plain = load("npz:own.npz")
    assert load("npz:set.npz").fingerprint == plain.fingerprint
    monkeypatch.setenv("PARETOPRUNE_KEY", OTHER)
    with pytest.raises(DataError, match=r"npz:set.npz: was encrypted with another key"):
        load("npz:set.npz")
    monkeypatch.setenv("PARETOPRUNE_KEY", "secret")
    with pytest.raises(ConfigError, match="the key that is set is no key") as caught:
        load("npz:set.npz")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("PARETOPRUNE_KEY")
    with pytest.raises(ConfigError, match="no key is set; set PARETOPRUNE_KEY"):
        load("npz:set.npz")
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("PARETOPRUNE_KEY_FILE", str(tmp_path / "key"))
    assert load("npz:set.npz").fingerprint == plain.fingerprint


def test_what_was_sealed_travels_sealed() -> None:
    content = arrays()
    Path("set.npz").write_bytes(seal(Path(save(content).removeprefix("npz:")).read_bytes()))
    train = load("npz:set.npz", train_limit=8).train
    sent = pickle.dumps(train, protocol=5)
    row = train.images[0].tobytes()
    assert row in pickle.dumps(load("npz:own.npz", train_limit=8).train, protocol=5)
    assert row not in sent
    assert pickle.loads(sent).fingerprint == train.fingerprint
    assert load("npz:set.npz").fold(0, 3).train.sealed


def test_cache_is_sealed_where_a_key_is_set_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes("task")
    settings = {"patch": (6, 6, 6), **SHARES}
    first = load("decathlon:task", **settings)
    [pack] = Path("cache").glob("pack-*")
    assert pack.read_bytes()[: len(MAGIC)] == MAGIC
    assert first.train.sealed
    monkeypatch.setattr("evaluators.data.packs.assemble", None)  # files are not read again
    again = load("decathlon:task", **settings)
    assert again.fingerprint == first.fingerprint
    assert again.open_test().fingerprint == first.open_test().fingerprint
    monkeypatch.undo()


def test_a_torn_cache_is_made_again_and_changed_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARETOPRUNE_KEY")
    volumes("task")
    first = load("decathlon:task", patch=(6, 6, 6), **SHARES)
    [pack] = Path("cache").glob("pack-*")
    assert zipfile.is_zipfile(pack)
    assert pack.stat().st_mode & 0o077 == 0
    pack.write_bytes(pack.read_bytes()[:-300])
    assert load("decathlon:task", patch=(6, 6, 6), **SHARES).fingerprint == first.fingerprint
    (Path("task/imagesTr") / "c0.nii.gz").touch()
    load("decathlon:task", patch=(6, 6, 6), **SHARES)
    assert len(list(Path("cache").glob("pack-*"))) == 2


def test_a_header_that_promises_too_much_is_refused_before_memory_is_asked_for() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 1000, 1000)}
    )
    np.savez("own.npz", **{key: value for key, value in arrays().items() if key != "train_images"})
    with zipfile.ZipFile("own.npz", "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + bytes(100))
    with pytest.raises(
        DataError, match=r"train_images is damaged: 8,000,000,000,000 bytes are promised, 100"
    ):
        load("npz:own.npz")


def test_an_array_larger_than_memory_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = arrays() | {"train_images": np.zeros((12, 512, 512), np.uint8)}  # 3 MB in a few kilobytes
    source = save(content)
    assert Path("own.npz").stat().st_size < 10_000
    monkeypatch.setattr("evaluators.data.npz._memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"train_images does not fit into memory \(3,145,728 bytes\)"):
        load(source)


def test_names_inside_an_archive_lead_nowhere() -> None:
    np.savez("own.npz", **arrays(), **{"../../escaped": np.zeros(3)})
    assert len(load("npz:own.npz").train) == 12
    assert not Path("../../escaped.npy").exists()


def test_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from search.commands.data import app

    def call(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.exception
        return done.output

    source = save(arrays())
    assert "medmnist:breastmnist" in call("list")
    assert '"duplicates_removed": 0' in call("inspect", source, "--format", "json")
    assert "uint8 from 0 to 25" in call("inspect", source)
    assert "bytes" in call("encrypt", source, "--out", "sealed.npz")
    assert load("npz:sealed.npz").train.fingerprint == load(source).train.fingerprint
    for content in (aged(), several_labels()):
        call("encrypt", save(content), "--out", "sealed.npz")
        assert load("npz:sealed.npz").train.fingerprint == load(source).train.fingerprint
    volumes("task")
    call("inspect", "decathlon:task", "--set", "data.patch=[6,6,6]")
    assert "removed 0 sets" in call("clean")
    assert "removed 1 sets" in call("clean", "--days", "0")
    assert not list(Path("cache").glob("pack-*"))
    assert CliRunner().invoke(app, ["inspect", source, "--set", "data.sise=3"]).exit_code != 0
