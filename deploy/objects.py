"""A bucket's objects: `dump BUCKET` as a tar on stdout, `load BUCKET` from one on stdin, `list BUCKET` as JSON.

Needs botocore alone, so that backup.sh can run it inside any container that has the bucket's credentials.
"""

import io
import json
import sys
import tarfile

import botocore.session


def objects(s3, bucket):
    """Key, size and ETag of every object, by key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [(each["Key"], each["Size"], each["ETag"]) for page in pages for each in page.get("Contents", [])]


def dump(s3, bucket):
    """Write them all to standard output; what is deleted meanwhile is left out."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for key, _, _ in objects(s3, bucket):
            try:
                body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            except s3.exceptions.NoSuchKey:
                continue
            about = tarfile.TarInfo(key)
            about.size = len(body)  # it may have been written anew since it was listed
            tar.addfile(about, io.BytesIO(body))


def load(s3, bucket):
    """Put what standard input holds; objects that are not in it stay."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for about in tar:
            s3.put_object(Bucket=bucket, Key=about.name, Body=tar.extractfile(about).read())


def show(s3, bucket):
    """Print them as one JSON object: key → [size, ETag]."""
    print(json.dumps({key: [size, etag] for key, size, etag in objects(s3, bucket)}))


if __name__ == "__main__":
    what, name = sys.argv[1:]
    {"dump": dump, "load": load, "list": show}[what](botocore.session.get_session().create_client("s3"), name)
