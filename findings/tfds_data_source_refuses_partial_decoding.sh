#!/usr/bin/env bash
# tensorflow-datasets 4.9.10: `as_data_source(decoders=PartialDecoding(...))` is accepted and fails at the first read.
#
# `as_dataset` takes `tfds.decode.PartialDecoding` to leave out features that are costly to decode. `as_data_source`,
# which reads without TensorFlow, takes the same argument without a word; the first example that is read then raises
#   ValueError: Error while flattening dict: FeaturesDict received a non dict item: <...PartialDecoding object ...>
# A dictionary of decoders per feature (`SkipDecoding` for those not wanted) is what it reads.
#
# Seen 2026-11-29 with Python 3.12, tensorflow-datasets 4.9.10, array-record 0.8.6, numpy 2.5.5:
#   without decoders: ['id', 'image']
#   with PartialDecoding: ValueError: ... FeaturesDict received a non dict item
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check tensorflow-datasets==4.9.10 array-record==0.8.6 numpy==2.5.5 \
  importlib_resources==7.1.0
mkdir "$folder/small"
touch "$folder/small/__init__.py"
cat > "$folder/small/builder.py" <<'PYTHON'
import numpy as np
import tensorflow_datasets as tfds


class Small(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8), "id": tfds.features.Text()}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            yield i, {"image": np.full((8, 8, 1), i, np.uint8), "id": str(i)}
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import sys

import tensorflow_datasets as tfds
from small.builder import Small

builder = Small(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
print("without decoders:", sorted(builder.as_data_source("train")[0]))
source = builder.as_data_source("train", decoders=tfds.decode.PartialDecoding({"image": True}))
try:
    print("with PartialDecoding:", sorted(source[0]))
except ValueError as error:
    print("with PartialDecoding: ValueError:", error)
PYTHON
cd "$folder"
"$folder/venv/bin/python" read.py "$folder/data" 2> "$folder/errors" > "$folder/output" || { cat "$folder/errors"; exit 1; }
cat "$folder/output"
grep -q "^without decoders: \['id', 'image'\]$" "$folder/output"
grep -q "^with PartialDecoding: ValueError: .*FeaturesDict received a non dict item" "$folder/output"
