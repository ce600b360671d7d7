#!/bin/sh
# Makes the shipped avatar and the audio encoder from nothing: speech, drawings, two trainings, two exports. Hours on a small CPU.
#   scripts/make_demo.sh WORK [PIPER_PYTHON VOICE.onnx]     (see scripts/training/piper_voice.py; without it, flite's voices alone)
# Run again after a stop: finished parts are kept, training goes on from its last checkpoint.
set -eu
cd "$(dirname "$0")/.."
work=$1
export PYTHONPATH=scripts
# Large buffers are kept for the next step, not returned to the system: twice as fast.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=34359738368
mkdir -p "$work"
if [ ! -e "$work/corpus.done" ]; then
    python -m training.speech_data "$work/corpus" ${2:+--piper "$2" "$3"}
    touch "$work/corpus.done"
fi
python scripts/train_encoder.py "$work/corpus" "$work"
python scripts/export_onnx.py encoder "$work/encoder.pt" avatars/audio_encoder/encoder.onnx --half-storage
[ -e "$work/drawn.done" ] || python -m drawn.draw_avatar avatars/demo
touch "$work/drawn.done"
python scripts/train_unet.py avatars/demo "$work/corpus" "$work/encoder.pt" "$work"
python scripts/export_onnx.py unet "$work/unet.pt" avatars/demo/unet.onnx --half-storage
