# The guide's pages, for scenarios that run what stands there.

# page NAME MARK: the blocks of a page that are marked so.
page() {
    local found
    found=$(awk -v mark="\`\`\`sh $2" '/^```/ { on = ($0 == mark); next } on' "docs/guide/$1.md")
    [ -n "$found" ] || { echo "$1.md has no block marked $2" >&2; return 1; }
    printf '%s\n' "$found"
}

# programs FOLDER: a PATH for what runs outside, with zvb, QEMU, and User-Mode Linux, which says all on standard output.
programs() {
    mkdir -p "$1"
    ln -sf "$zvb" "$1/zvb"
    cat >"$1/qemu-system-x86_64" <<EOF
#!/bin/bash
exec "$parts/vmm/usr/lib64/ld-linux-x86-64.so.2" --library-path "$parts/vmm/usr/lib/x86_64-linux-gnu" \\
    "$parts/vmm/usr/bin/qemu-system-x86_64" -L "$parts/vmm/usr/share/qemu" -L "$parts/vmm/usr/share/seabios" "\$@"
EOF
    cat >"$1/linux" <<EOF
#!/bin/bash
cd "$parts/uml"
exec setarch -R env HOME="\${HOME_OF_UML:-/tmp}" LD_LIBRARY_PATH=. ./linux "\$@" con=null con0=null,fd:1 ssl=null
EOF
    chmod +x "$1/qemu-system-x86_64" "$1/linux"
    echo "$1:$PATH"
}
