#!/usr/bin/env bash
# numpy 2.5.5: `np.save` of a small array where the disk is full ends without an error and leaves a file cut off.
#
# Arrays go to a real file through C's buffered streams. What fits into the buffer is written when the stream is closed,
# and that call's failure is not reported; larger arrays fail in the middle and do raise OSError. Latents and codes of a
# few examples are such small arrays. Writing `array.tobytes()` through Python's own file raises in both cases.
# A limit of the size of files stands for the full disk here.
#
# Seen 2026-11-29 with Python 3.12, numpy 2.5.5, Linux:
#   np.save of 100 numbers: no error, 512 of 928 bytes
#   np.save of 10000 numbers: OSError, 512 of 80128 bytes
#   file.write of 100 numbers: OSError, 512 of 928 bytes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.5.5
cat > "$folder/save.py" <<'PYTHON'
import io
import os
import resource
import sys

import numpy as np


def save(path, array):
    np.save(path, array)


def write(path, array):
    whole = io.BytesIO()
    np.save(whole, array)
    with open(path, "wb", buffering=0) as file:
        content = whole.getvalue()
        while content:
            content = content[file.write(content) :]


resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
for name, function, length in (("np.save", save, 100), ("np.save", save, 10_000), ("file.write", write, 100)):
    path = os.path.join(sys.argv[1], f"{name}_{length}.npy")
    try:
        function(path, np.ones(length))
        ended = "no error"
    except OSError:
        ended = "OSError"
    print(f"{name} of {length} numbers: {ended}, {os.path.getsize(path)} of {128 + 8 * length} bytes")
PYTHON
mkdir "$folder/out"
"$folder/venv/bin/python" "$folder/save.py" "$folder/out" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
np.save of 100 numbers: no error, 512 of 928 bytes
np.save of 10000 numbers: OSError, 512 of 80128 bytes
file.write of 100 numbers: OSError, 512 of 928 bytes
SEEN
