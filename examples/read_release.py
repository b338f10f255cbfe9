"""Reads the release that answers from a bucket, without Verdigris: boto3 fetches, blake3 checks, FAISS searches.

    pip install boto3 blake3 faiss-cpu numpy pyroaring
    python3 examples/read_release.py BUCKET [PREFIX/]COLLECTION [QUERIES.json [TOP_K]]

QUERIES.json is an array of vectors. Prints one JSON object: generation, documents, rows, and for each query the ids of
the nearest documents, best first. Credentials, region and AWS_ENDPOINT_URL_S3 are found as boto3 finds them.
What the objects are: docs/formats.md.
"""

import io
import json
import struct
import sys
import tarfile

import blake3
import boto3
import faiss
import numpy
import pyroaring


class Reader:
    def __init__(self, bucket, folder):
        self.s3, self.bucket, self.folder = boto3.client("s3"), bucket, folder

    def get(self, path, digest=None, start=None, length=None):
        """An object or a range of one, checked by its digest."""
        asked = {} if start is None else {"Range": f"bytes={start}-{start + length - 1}"}
        body = self.s3.get_object(Bucket=self.bucket, Key=f"{self.folder}/{path}", **asked)["Body"].read()
        if digest and blake3.blake3(body).hexdigest() != digest:
            sys.exit(f"{path} is damaged: its digest is not {digest}")
        return body

    def manifest(self):
        """The manifest of the lineage that answers, as the pointer names it."""
        active = json.loads(self.get("latest"))["active"]
        if not active:
            sys.exit(f"{self.folder} has no release yet")
        return json.loads(self.get(active["manifest"]["path"], active["manifest"]["digest"]))


class Segment:
    """A FAISS index, the id of each row, and which rows are dead."""

    def __init__(self, reader, entry):
        files, dead = entry["files"], entry.get("dead")
        vectors = reader.get(files["vectors"]["path"], files["vectors"]["digest"])
        self.index = faiss.deserialize_index(numpy.frombuffer(vectors, dtype="uint8"))
        rows = tarfile.open(fileobj=io.BytesIO(reader.get(files["rows"]["path"], files["rows"]["digest"])))
        count = json.load(rows.extractfile("rows.json"))["rows"]
        ids = rows.extractfile("ids")
        ends, names = struct.unpack(f"<{count}I", ids.read(4 * count)), ids.read()
        self.ids = [names[begin:end].decode() for begin, end in zip((0, *ends), ends)]
        self.dead = pyroaring.BitMap()
        if dead:
            found = reader.get(dead["path"], dead["digest"], dead["offset"], dead["bytes"])
            self.dead = pyroaring.BitMap.deserialize(found)

    def search(self, query, top_k):
        """Pairs of score and id."""
        if hasattr(self.index, "hnsw"):
            self.index.hnsw.efSearch = self.index.ntotal
        scores, rows = self.index.search(query[None], min(self.index.ntotal, top_k + len(self.dead)))
        pairs = zip(scores[0].tolist(), rows[0].tolist())
        return [(score, self.ids[row]) for score, row in pairs if row >= 0 and row not in self.dead]


def main(bucket, folder, queries=None, top_k="10"):
    reader = Reader(bucket, folder)
    manifest = reader.manifest()
    segments = [Segment(reader, entry) for entry in manifest["segments"]]
    found = []
    for query in json.load(open(queries)) if queries else []:
        query = numpy.array(query, dtype="float32")
        if manifest["metric"] == "cosine":
            query /= numpy.linalg.norm(query)
        pairs = [pair for segment in segments if segment.index.ntotal for pair in segment.search(query, int(top_k))]
        pairs.sort(reverse=True)
        found.append([id for _, id in pairs[: int(top_k)]])
    rows = sum(segment.index.ntotal for segment in segments)
    told = {"generation": manifest["generation"], "documents": manifest["documents"], "rows": rows, "found": found}
    print(json.dumps(told))


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
