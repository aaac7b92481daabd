#!/bin/sh
# Installs Rust by rustup from Debian's package; tests/integration/run installs the rest.
set -eu
sudo apt-get update -qq
sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev git curl ca-certificates >/dev/null
command -v cargo >/dev/null || [ -x "$HOME/.cargo/bin/cargo" ] || curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain none --profile minimal
