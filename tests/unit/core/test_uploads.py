"""Multipart uploads leave nothing behind, whatever becomes of their bucket."""

from __future__ import annotations

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config


async def remove_through_s3(volume: Volume) -> None:
    await ObjectStore(volume).delete_bucket("bucket")


async def remove_through_the_mount(volume: Volume) -> None:
    await volume.rmdir(ROOT_INO, b"bucket")


async def replace_through_the_mount(volume: Volume) -> None:
    await volume.mkdir(ROOT_INO, b"other", mode=0o755, uid=0, gid=0)
    await volume.rename(ROOT_INO, b"other", ROOT_INO, b"bucket")
    await volume.rmdir(ROOT_INO, b"bucket")


@pytest.mark.parametrize("remove", [remove_through_s3, remove_through_the_mount, replace_through_the_mount])
@pytest.mark.parametrize("crashes", [False, True])
def test_the_parts_of_an_upload_go_with_its_bucket(remove: object, crashes: bool) -> None:
    assert callable(remove)

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        with pytest.raises(RuntimeError) if crashes else trio.CancelScope():
            async with world.opened() as volume:
                store = ObjectStore(volume)
                await store.create_bucket("bucket", owner="me")
                for key in (b"a", b"b"):
                    upload_id = await store.create_upload("bucket", key, owner="me", headers={}, metadata={})
                    part = await store.begin_part("bucket", key, upload_id, 1)
                    await part.write(bytes(500_000))
                    await part.commit(etag="0", checksums={})
                await remove(volume)
                if crashes:
                    await volume.sync()
                    raise RuntimeError("power is lost")
                await trio.sleep(3)
                assert volume.status().inodes == 1
        if crashes:
            world.after_kill()
        async with world.opened() as volume:
            await trio.sleep(3)
            assert volume.status().inodes == 1
            assert await fsck(volume) == []

    trio.run(main, clock=autojump())
