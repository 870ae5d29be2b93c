#!/usr/bin/env bash
# tensorflow-datasets 4.9.10: a builder of one's own needs `importlib_resources`, which no dependency brings.
#
# In a fresh environment `import tensorflow_datasets` works. `download_and_prepare` of a builder that stands in a file of
# one's own then raises ModuleNotFoundError, since the place of the builder's code is compared with a class of a package
# that TFDS does not declare. `pip install importlib_resources` is the cure, and a project that uses TFDS has to list it.
#
# Seen 2026-11-29 with Python 3.12, tensorflow-datasets 4.9.10, etils 1.15.0:
#   imported 4.9.10
#   ModuleNotFoundError: No module named 'importlib_resources'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check tensorflow-datasets==4.9.10 etils==1.15.0 \
  array-record==0.8.6 numpy==2.5.5
mkdir "$folder/small"
touch "$folder/small/__init__.py"
cat > "$folder/small/builder.py" <<'PYTHON'
import numpy as np
import tensorflow_datasets as tfds


class Small(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.zeros((8, 8, 1), np.uint8)}
PYTHON
cat > "$folder/prepare.py" <<'PYTHON'
import sys

import tensorflow_datasets as tfds
from small.builder import Small

print("imported", tfds.__version__)
try:
    Small(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
    print("prepared")
except ModuleNotFoundError as error:
    print("ModuleNotFoundError:", error)
PYTHON
cd "$folder"
"$folder/venv/bin/python" prepare.py "$folder/data" 2> "$folder/errors" > "$folder/output" || { cat "$folder/errors"; exit 1; }
cat "$folder/output"
grep -qx "imported 4.9.10" "$folder/output"
grep -qx "ModuleNotFoundError: No module named 'importlib_resources'" "$folder/output"
