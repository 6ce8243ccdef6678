"""Memory and speed of `data import` from what is no shard of ours, over the number of stories.

    python benchmarks/exchange.py [2000 10000]

Each run is a process of its own that streams a JSON file with embedded pictures of noise into shards. Memory is what the
process itself holds (RssAnon): pages of mapped files belong to the kernel.
"""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PICTURES, SIDE = 5, 64
BYTES = 10_000
"""What a picture has at least."""
RUN = """
import sys, threading, time
from pathlib import Path
from storyreason import dataset

peak, over, started = 0, threading.Event(), time.monotonic()

def watch():
    global peak
    while not over.wait(0.01):
        peak = max(peak, int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]))

watching = threading.Thread(target=watch)
watching.start()
with dataset.fetched(sys.argv[1], Path(sys.argv[2])) as place:
    assert len(dataset.load(place, "train")) == int(sys.argv[3])
over.set()
watching.join()
print(peak * 1024, time.monotonic() - started)
"""


def written(folder: Path, stories: int) -> Path:
    """A file of so many stories, each with pictures of its own."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    file, random = folder / "train.jsonl", np.random.default_rng(0)
    with file.open("w") as out:
        for number in range(stories):
            urls = []
            for _ in range(PICTURES):
                content = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "PNG")
                assert len(content.getvalue()) > BYTES
                urls.append(f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}")
            row = {"story_id": f"film-{number}", "images": urls, "chain_of_thought": "", "story": ""}
            out.write(json.dumps(row) + "\n")
    return file


def measured(file: Path, stories: int) -> tuple[float, float]:
    """Bytes that a process holds at most while it takes the stories in, and its seconds."""
    command = [sys.executable, "-c", RUN, str(file), str(file.parent / "data"), str(stories)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    most, seconds = map(float, done.stdout.split())
    return most, seconds


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ["2000", "10000"]):
        with TemporaryDirectory() as folder:
            source = written(Path(folder), count)
            most, seconds = measured(source, count)
            size = source.stat().st_size
            print(f"{count} stories, {size / 1e6:.0f} MB: {most / 1e6:.0f} MB held at most, {seconds:.0f} s")  # noqa: T201
