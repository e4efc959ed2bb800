#!/usr/bin/env bash
# From a fresh clone to a streamed answer.
set -euo pipefail

usage() {
  cat <<'END'
Usage: deploy/quickstart.sh [--keep-running] [--prompt TEXT]

Installs what is needed, builds the server and the client, obtains the default
model, starts the server on free ports of this machine, asks it something and
shows the answer as it comes, with the final report. Then stops the server.

  --keep-running  leave the server up and print how to call it
  --prompt TEXT   what to ask
  --help          this text
END
}

keep_running=false
prompt="How do plants make food?"
while (($# > 0)); do
  case "$1" in
    --keep-running) keep_running=true ;;
    --prompt)
      prompt="${2:?--prompt needs a text}"
      shift
      ;;
    --prompt=*) prompt="${1#--prompt=}" ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
build="$root/build/release"
server_program="$build/server/sparseserve-server"
client_program="$build/client/sparseserve"
log="$build/quickstart-server.log"
server_pid=""

stop_server() {
  if [[ -n "$server_pid" ]]; then
    kill -TERM "$server_pid" 2> /dev/null || true
    wait "$server_pid" 2> /dev/null || true
    server_pid=""
  fi
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }

step "1/5 Dependencies"
deploy/install-dependencies.sh

step "2/5 Build (some minutes the first time)"
revision="$(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
cmake --preset release --log-level=WARNING -DSPARSESERVE_BUILD_TESTS=OFF \
  -DSPARSESERVE_REVISION="$revision" > /dev/null
cmake --build "$build"

step "3/5 Model"
model="$(deploy/fetch-model.sh | tail -n 1)"

step "4/5 Server"
# A session of its own: it outlives this terminal if it is to keep running, and
# Ctrl-C reaches it as an orderly stop from here.
setsid "$server_program" --model="$model" --listen=127.0.0.1:0 \
  --metrics_listen=127.0.0.1:0 > "$log" 2>&1 < /dev/null &
server_pid=$!

fail_with_log() {
  echo "$1 Its log, $log, ends with:" >&2
  tail -n 50 "$log" >&2
  exit 1
}

# The port in the line "listening grpc=HOST:PORT metrics=HOST:PORT".
port_of() {
  sed -n "s/.*listening .*$1=[^ ]*:\([0-9][0-9]*\).*/\1/p" "$log"
}

deadline=$((SECONDS + 120))
until grpc_port="$(port_of grpc)" && [[ -n "$grpc_port" ]] &&
  "$client_program" health --quiet --timeout=2s \
    --server="127.0.0.1:$grpc_port" 2> /dev/null; do
  kill -0 "$server_pid" 2> /dev/null || fail_with_log "The server has ended."
  ((SECONDS < deadline)) || fail_with_log "The server is not ready in 120 s."
  sleep 0.2
done
address="127.0.0.1:$grpc_port"
metrics="127.0.0.1:$(port_of metrics)"
echo "Serving on $address, metrics on http://$metrics/metrics."

step "5/5 Prompt: $prompt"
# The likeliest tokens: a model of this size rambles when they are drawn.
"$client_program" generate --server="$address" --timeout=300s --temperature=0 \
  --chat "$prompt"

if $keep_running; then
  pid="$server_pid"
  server_pid=""
  cat <<END

The server keeps running. Ask it more:
  $client_program generate --server=$address --temperature=0 --chat "What is gravity?"
  $client_program models --server=$address
  curl -s http://$metrics/metrics
Stop it:
  kill $pid
END
else
  step "Stopping the server"
fi
