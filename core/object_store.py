"""Everything that the S3 door asks of the core, in one place: buckets, objects, uploads."""

from __future__ import annotations

from siltstone.core.objects import Objects
from siltstone.core.uploads import Uploads
from siltstone.core.volume import Volume


class ObjectStore:
    """The object side of a volume. What each call does is told where it is defined."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        objects = Objects(volume)
        uploads = Uploads(objects)
        self.create_bucket = objects.create_bucket
        self.delete_bucket = objects.delete_bucket
        self.list_buckets = objects.list_buckets
        self.bucket = self.bucket_of_key = objects.bucket
        self.bucket_documents = objects.bucket_documents
        self.set_bucket_documents = objects.set_bucket_documents
        self.begin_put = objects.begin_put
        self.head = objects.head
        self.open = objects.open
        self.delete = objects.delete
        self.edit = objects.edit
        self.list_versions = objects.list_versions
        self.copy = objects.copy
        self.list_keys = objects.list_keys
        self.create_upload = uploads.create_upload
        self.upload = uploads.upload
        self.begin_part = uploads.begin_part
        self.copy_part = uploads.copy_part
        self.list_parts = uploads.list_parts
        self.list_uploads = uploads.list_uploads
        self.complete_upload = uploads.complete_upload
        self.abort_upload = uploads.abort_upload
