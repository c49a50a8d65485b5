"""Access keys: what is added is found, also after a restart; what is malformed or taken is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from siltstone.errors import AlreadyExists, ConfigInvalid, InvalidArgument, NotFound
from siltstone.keys import AccessKey, FollowedKeys, KeyRing


def test_a_key_is_generated_and_found_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = KeyRing.load(path).add()
    assert len(key.access) == 20
    assert len(key.secret) == 40
    assert key.owner == key.display_name == key.access
    assert KeyRing.load(path).lookup(key.access) == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_generated_keys_differ(tmp_path: Path) -> None:
    ring = KeyRing.load(tmp_path / "keys.json")
    first, second = ring.add(), ring.add()
    assert first.access != second.access
    assert first.secret != second.secret


def test_a_key_that_is_given_is_kept_as_given(tmp_path: Path) -> None:
    ring = KeyRing.load(tmp_path / "keys.json")
    key = ring.add(access="MAIN", secret="s3cr3t/+=!", owner="testid", display_name="M. Tester")
    assert key == AccessKey(access="MAIN", secret="s3cr3t/+=!", owner="testid", display_name="M. Tester")
    assert ring.list() == [key]


@pytest.mark.parametrize(
    "parts",
    [
        {"access": "MAIN"},
        {"secret": "long-enough"},
        {"access": "a", "secret": "long-enough"},
        {"access": "a/b", "secret": "long-enough"},
        {"access": "MAIN", "secret": "short"},
        {"access": "MAIN", "secret": "with a space"},
        {"access": "MAIN", "secret": "not-äscii"},
        {"owner": ""},
        {"owner": "line\nbreak"},
        {"display_name": ""},
        {"display_name": "line\nbreak"},
    ],
)
def test_a_malformed_key_is_refused_and_nothing_is_written(tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        KeyRing.load(tmp_path / "keys.json").add(**parts)
    assert not (tmp_path / "keys.json").exists()


def test_a_taken_access_id_is_refused_and_the_first_key_stays(tmp_path: Path) -> None:
    ring = KeyRing.load(tmp_path / "keys.json")
    key = ring.add(access="MAIN", secret="the-first-one")
    with pytest.raises(AlreadyExists, match="MAIN"):
        ring.add(access="MAIN", secret="the-second-one")
    assert ring.lookup("MAIN") == key


def test_a_removed_key_is_gone_also_after_a_restart_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    ring = KeyRing.load(tmp_path / "keys.json")
    ring.add(access="MAIN", secret="long-enough")
    ring.remove("MAIN")
    assert ring.lookup("MAIN") is None
    assert KeyRing.load(tmp_path / "keys.json").list() == []
    with pytest.raises(NotFound, match="MAIN"):
        ring.remove("MAIN")


@pytest.mark.parametrize("text", [b"", b"{}", b'[{"access": "A"}]', b"\xff"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "keys.json").write_bytes(text)
    with pytest.raises(ConfigInvalid):
        KeyRing.load(tmp_path / "keys.json")


def test_another_process_sees_each_change_with_its_next_lookup(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    followed = FollowedKeys(path)
    assert followed.lookup("AKONE") is None
    ring = KeyRing.load(path)
    ring.add(access="AKONE", secret="secret-one")
    found = followed.lookup("AKONE")
    assert found is not None and found.secret == "secret-one"
    ring.remove("AKONE")
    assert followed.lookup("AKONE") is None
    ring.add(access="AKTWO", secret="secret-two")
    path.write_bytes(b"not keys")
    assert followed.lookup("AKTWO") is None
    ring.add(access="AKSIX", secret="secret-six")
    assert followed.lookup("AKSIX") is not None


def test_secrets_stand_in_the_file_encrypted_under_a_key_that_stands_in_another(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing.load(path)
    ring.add(access="MAIN", secret="a-secret-of-mine")
    ring.make_server_key()
    server = ring.server_key()
    text = path.read_text()
    assert "a-secret-of-mine" not in text and "a-secret-of-mine" not in repr(ring.list()) + repr(ring.stored())
    assert server is not None and base64.b64encode(server).decode() not in text
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    again = KeyRing.load(path)
    assert (again.list(), again.server_key(), again.stored()) == (ring.list(), server, ring.stored())


def test_secrets_that_an_earlier_version_left_in_clear_are_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('[{"access": "OLD", "secret": "in-the-clear", "owner": "me", "display_name": "Me"}]')
    ring = KeyRing.load(path)
    ring.seal()
    assert "in-the-clear" not in path.read_text()
    found = KeyRing.load(path).lookup("OLD")
    assert found is not None and found.secret == "in-the-clear"


@pytest.mark.parametrize("damage", ["gone", "another", "nonsense", "swapped"])
def test_secrets_that_cannot_be_decrypted_are_an_error_that_says_so(tmp_path: Path, damage: str) -> None:
    path, secret = tmp_path / "keys.json", tmp_path / "secret.key"
    ring = KeyRing.load(path)
    ring.add(access="ONE", secret="first-secret")
    ring.add(access="TWO", secret="second-secret")
    match damage:
        case "gone":
            secret.unlink()
        case "another":
            secret.write_text("ab" * 64)
        case "nonsense":
            secret.write_text("no key")
        case _:
            path.write_text(path.read_text().replace("ONE", "???").replace("TWO", "ONE").replace("???", "TWO"))
    with pytest.raises(ConfigInvalid, match=r"secret\.key|decrypted"):
        KeyRing.load(path)
