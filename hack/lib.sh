# What the scripts have in common. Sourced, not run.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"

say() { printf '\n== %s (%s)\n' "$*" "$(date +%T)"; }

# Installs Debian packages that are missing; says which.
need() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || { echo "run this as root: it installs ${missing[*]}" >&2; exit 1; }
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Rust, by rustup's own package where there is none.
need_rust() {
    command -v cargo >/dev/null && return
    export PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null && return
    echo "Rust 1.88 or later is needed: https://rustup.rs" >&2
    exit 1
}

# The agent that is process 1 in a microVM's guest: static, as a guest has no libraries, and without symbols, which would be in every guest's memory. Made where `bulkhead guest build` looks for it, beside the binary.
build_agent() {
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --quiet -p bulkhead-agent --target x86_64-unknown-linux-gnu
    install -D "${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release/bulkhead-agent" "${CARGO_TARGET_DIR:-target}/release/bulkhead-agent"
}

# Debian's cloud kernel with its modules, unpacked below the directory that is given, not installed: this host's own boot files are none of our business.
cloud_kernel() {
    local package
    [ ! -e "$1/.complete" ] || return 0
    package=$(apt-cache depends linux-image-6.12-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
    [ -n "$package" ] || { apt-get update -qq; package=$(apt-cache depends linux-image-6.12-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }'); }
    say "fetching $package"
    rm -rf "$1" && mkdir -p "$1"
    (cd "$1" && apt-get download -qq -o APT::Sandbox::User=root "$package" && dpkg -x ./"$package"_*.deb . && rm ./"$package"_*.deb)
    find "$1/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    touch "$1/.complete"
}
