#!/usr/bin/env bash
# Installs what the tests need, builds, obtains the default model and runs every
# test. The last thing it prints is ctest's summary.
set -euo pipefail

case "${1:-}" in
  --help | -h)
    cat <<'END'
Usage: tests/run.sh [CTEST OPTIONS]

Runs every test of the release preset, on as many cores as there are. Options go
to ctest: "-L unit" runs what needs no model, "-R scheduling" what is named so.
END
    exit 0
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/install-dependencies.sh --tests
cmake --preset release
cmake --build --preset release
if [[ -z "${SPARSESERVE_MODEL:-}" ]]; then
  SPARSESERVE_MODEL="$(deploy/fetch-model.sh | tail -n 1)"
fi
export SPARSESERVE_MODEL
ctest --preset release --parallel "$(nproc)" "$@" < /dev/null
