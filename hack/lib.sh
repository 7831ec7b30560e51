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
