#!/bin/sh
# Starts NVIDIA's tritonserver on the loopback address: callers reach the gateway, which shares its network.
#   LIPSYNC_CONTROL_KEY     secret that loading a model needs, because it runs code; the gateway has the same
#   LIPSYNC_GPU_CONFIGS     tensorrt (default), cuda or plain: see docs/gpu.md
#   LIPSYNC_REPOSITORY      folder or s3://... of the model repository
#   LIPSYNC_TRITON_OPTIONS  further options, separated by blanks
set -eu
: "${LIPSYNC_CONTROL_KEY:?set LIPSYNC_CONTROL_KEY to a secret, such as the output of: openssl rand -hex 16}"
restricted="model-repository,shared-memory,trace,logging:lipsync-control=$LIPSYNC_CONTROL_KEY"
# shellcheck disable=SC2086 # the options are words
exec tritonserver \
    --model-repository="${LIPSYNC_REPOSITORY:-/opt/lipsync/model_repository}" \
    --model-config-name="${LIPSYNC_GPU_CONFIGS:-tensorrt}" \
    --model-control-mode=explicit --load-model=lipsync_ensemble --load-model=lipsync_visual_ensemble \
    --exit-on-error=false --strict-readiness=false --disable-auto-complete-config --exit-timeout-secs=20 \
    --grpc-address=127.0.0.1 --http-address=127.0.0.1 --metrics-address=127.0.0.1 \
    --grpc-port=9001 --http-port=9000 --metrics-port=9002 \
    --grpc-restricted-protocol="$restricted" --http-restricted-api="$restricted" \
    ${LIPSYNC_TRITON_OPTIONS:-} "$@"
