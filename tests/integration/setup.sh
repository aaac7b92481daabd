# What the scripts here have in common; sourced, with the checkout as directory.

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E env "PATH=$PATH" "$@"; fi; }
exec_as_root() { if [ "$(id -u)" = 0 ]; then exec "$@"; else exec sudo -E "$@"; fi; }

# present PACKAGE…: installs the Debian packages that are not there.
present() { dpkg -s "$@" >/dev/null 2>&1 || installed "$@"; }
installed() { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

# goes DIRECTORY: there is a Go for the module. Asked in its directory: a Go of 1.21 or later fetches the one that go.mod names.
goes() { command -v go >/dev/null && [ "$(cd "$1" && go env GOVERSION | sed 's/go1\.\([0-9]*\).*/\1/')" -ge 25 ]; }

# skipped SUITE REASON: a whole suite that can't be run here, as one that is counted.
skipped() { echo "skipped: $1: $2"; echo "0 passed, 0 failed, 1 skipped"; exit 0; }

# programs_for_images DIRECTORY: busybox and nginx. Unpacked, not installed: nginx would be started, and this busybox can't
# stand beside busybox-static.
programs_for_images() {
    if [ -x "$1/busybox" ] && [ -x "$1/nginx" ]; then return 0; fi
    packages=$(mktemp -d)
    trap 'rm -rf "$packages"' EXIT
    chmod 755 "$packages"
    (
        cd "$packages"
        apt-get download -qq busybox nginx 2>/dev/null || { as_root apt-get update -qq; apt-get download -qq busybox nginx; }
        for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    ) >/dev/null
    cp "$packages/unpacked/bin/busybox" "$packages/unpacked/usr/sbin/nginx" "$1/"
    rm -rf "$packages"
    trap - EXIT
}
