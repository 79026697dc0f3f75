#!/usr/bin/env bash
# Boots small guests with kernels of several Debian releases under QEMU and saves their memory, for tests/tests/kernels.rs.
#
#   tests/guests/kernels.sh OUT [WHAT...]
#
# WHAT is a suite such as bookworm: the kernel that its linux-image-amd64 stands for; or `newest`: the highest version that any suite
# has; or a version such as 6.17: the highest release of it. With :cloud behind it, the cloud flavour; with :large, in a guest
# whose memory is split around 4 GiB; with :la57, on a CPU with five levels of page tables; with :arm64, the one for 64-bit ARM,
# which makedumpfile for other machines does not read; with :wine, in a guest that also runs Windows programs, with Debian's Wine. Without any,
# what CI runs; `all` is every version that can be had. In OUT there will be a folder for each guest, with its memory, its disk and its kernel.
#
# As root, without input, on Debian 12 with apt sources for bookworm: packages come from the mirror that those name, with lists in
# OUT/.work and not in the system's. Installs what it needs. Afterwards makedumpfile counts the pages of each guest.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?where to}" && cd "$1" && pwd)
shift
work=$out/.work
suites_arm64=(trixie)
suites=(bullseye bookworm bookworm-backports trixie trixie-backports sid experimental)
ci=(bullseye bookworm bookworm-backports trixie trixie:large trixie:arm64 trixie:wine newest newest:la57 newest:cloud)
# What trixie-backports went through, and the same again in other guests.
others=(bullseye:large bookworm:la57 bookworm:cloud 6.16 6.17 6.18 6.19 7.0 7.1 7.2 newest:large experimental)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

install_programs() {
    apt-get install -q -y --no-install-recommends \
        qemu-system-x86 qemu-system-arm ipxe-qemu gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross cpio kmod xz-utils python3 e2fsprogs >/dev/null
}

# An apt program with the lists of all suites for the architecture at hand.
with_lists() {
    local program=$1 apt=$work/apt-$architecture
    shift
    "$program" -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/parts" \
        -o Dir::State::Lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache" \
        -o Dir::Cache::pkgcache=packages.bin -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Lists of the suites given, from where the system's own bookworm comes from.
fetch_lists() {
    local mirror suite apt=$work/apt-$architecture
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 'Component: main' | sort -u | head -n1)
    [ -n "$mirror" ] || { echo "no apt source of Debian bookworm's main component" >&2; exit 1; }
    mkdir -p "$apt"/{parts,lists/partial,cache/archives/partial}
    for suite in "$@"; do
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nSigned-By: %s\n\n' \
            "$mirror" "$suite" "$architecture" /usr/share/keyrings/debian-archive-keyring.gpg
    done >"$apt/parts/kernels.sources"
    with_lists apt-get update >/dev/null
}

# The release, as uname -r prints it, of the kernel that a suite or version stands for.
release_of() {
    local what=$1 flavour=$2 version
    case $what in
    [0-9]*) with_lists apt-cache pkgnames "linux-image-$what" | sed 's/^linux-image-//' |
        grep -E "^${what//./\\.}\b[^-]*(-[0-9]+)?-$flavour$" | sort -V | tail -n1 ;;
    *)
        version=$(with_lists apt-cache madison "linux-image-$flavour" |
            awk -v place=" $what/main " -v any="$what" 'any == "newest" || index($0, place) { print $3 }' | sort -V | tail -n1)
        with_lists apt-cache show "linux-image-$flavour=$version" |
            sed -nE 's/^Depends:.*linux-image-([0-9][^ ]*).*/\1/p' ;;
    esac
}

# Unpacks packages of a suite into a folder.
unpack() {
    local suite=$1 to=$2 package
    shift 2
    mkdir -p "$to" "$work/debs"
    (cd "$work/debs" && with_lists apt-get download "${@/%//$suite}" >/dev/null)
    for package in "$work"/debs/*.deb; do
        dpkg-deb -x "$package" "$to"
        rm "$package"
    done
}

# Unpacks the kernel of a release into a folder, and what a disk with ext4 needs of its modules, if they come with it.
fetch_kernel() {
    local release=$1 to=$2 package
    local packages=("linux-image-$release")
    # From 6.19 on it is in three packages, of which the modules' is large.
    if with_lists apt-cache show "linux-binary-$release" >/dev/null 2>&1; then
        packages=("linux-binary-$release")
        case $release in *cloud*) packages+=("linux-modules-$release") ;; esac
    fi
    mkdir -p "$to" "$work/debs"
    (cd "$work/debs" && with_lists apt-get download "${packages[@]}" >/dev/null)
    for package in "$work"/debs/*.deb; do
        # Not each pattern is in each package.
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$to" --transform='s,^\./usr/lib/,./lib/,' --wildcards \
            '*/vmlinuz*' '*/modules.*' '*/drivers/virtio/*' '*/drivers/block/virtio_blk*' '*/fs/ext4/*' '*/fs/jbd2/*' \
            '*/fs/mbcache*' '*/crc*' '*/firmware/qemu_fw_cfg*' 2>/dev/null || true
        rm "$package"
    done
}

# Makes an initrd with our only program, and the modules of an unpacked kernel.
make_initrd() {
    local release=$1 kernel=$2 root=$work/root module name
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/modules"
    cp "$work/init-$architecture" "$root/init"
    ln "$root/init" "$root/bin/alpha"
    ln "$root/init" "$root/bin/beta"
    if [ -d "$kernel/lib/modules/$release/kernel" ]; then
        touch "$kernel/lib/modules/$release"/modules.{order,builtin,builtin.modinfo}
        depmod -b "$kernel" "$release"
        # What is not there is in the kernel; without one that is nowhere, the guest fails.
        for module in virtio_pci virtio_blk ext4 qemu_fw_cfg; do
            modprobe -q -d "$kernel" -S "$release" --show-depends "$module" || true
        done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r module; do
            name=$(basename "${module%.xz}")
            case $module in
            *.xz) xz -dc "$module" >"$root/modules/$name" ;;
            *) cp "$module" "$root/modules/$name" ;;
            esac
            echo "/modules/$name" >>"$root/modules/list"
        done
    fi
    (cd "$root" && find . | cpio --quiet -o -H newc) | gzip -1
}

# Makes the guest's disk: files that it reads, and the kernel where a system has it.
make_disk() {
    local release=$1 kernel=$2 disk=$3 root=$work/disk
    rm -rf "$root"
    mkdir -p "$root/boot" "$root/files"
    "$work/init-amd64" "$root/files"
    find "$kernel" -name 'vmlinuz*' -exec cp {} "$root/boot/vmlinuz-$release" \;
    [ "$how" != :wine ] || cp -a "$work/wine" "$root/wine"
    truncate -s "$(($(du -sm "$root" | cut -f1) * 9 / 8 + 64))M" "$disk"
    mke2fs -q -t ext4 -b 4096 -d "$root" "$disk"
}

# Makes a folder with Debian's Wine, what it needs to run Windows programs without a screen, and what it keeps for a user.
make_wine() {
    local root=$work/wine file lib=usr/lib/x86_64-linux-gnu/wine/x86_64-windows
    local system=$root/home/.wine/drive_c/windows/system32
    mkdir -p "$root"/{dev,home,proc,tmp,usr/lib64}
    ln -s usr/lib usr/lib64 "$root"
    unpack trixie "$root" wine64 libwine libz-mingw-w64 libc6 libgcc-s1 libunwind8 liblzma5
    # The only library that is not of Wine itself; the packages' scripts put it there.
    mv "$root/usr/x86_64-w64-mingw32/lib/zlib1.dll" "$root/$lib"
    rm -rf "$root"/usr/*-mingw32* "$root/usr/share/doc" "$root/usr/share/man"
    # Mounts go with who made them.
    unshare -m bash -eu -s "$root" "$root/$lib/zlib1.dll" "$system" >"$work/wine.log" 2>&1 <<'END' || { tail "$work/wine.log" >&2; exit 1; }
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
run() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/home WINESERVER=/usr/lib/wine/wineserver64 WINEDEBUG=-all \
        WINEDLLOVERRIDES="mscoree,mshtml=" timeout 60 chroot "$1" /usr/lib/wine/"${@:2}" </dev/null
}
# It complains of what is not there for programs of 32 bits.
run "$1" wine64 wineboot --init || true
cp "$2" "$3"
# Windows that nobody sees.
run "$1" wine64 reg add 'HKCU\Software\Wine\Drivers' /v Graphics /d null
# All of its programs end, and it writes down what they set.
run "$1" wineserver64 -k || true
run "$1" wineserver64 -w
END
    # Copies of its libraries, which the system has already.
    find "$system" -maxdepth 1 -type f | while read -r file; do
        ! cmp -s "$file" "$root/$lib/${file##*/}" || ln -sf "/$lib/${file##*/}" "$file"
    done
}

# The newest makedumpfile that there is, with the libraries that it needs: each release learns to read newer kernels.
fetch_makedumpfile() {
    local root=$work/makedumpfile lib=usr/lib/x86_64-linux-gnu
    unpack sid "$root" makedumpfile libc6 libdw1t64 libelf1t64 liblzo2-2 libzstd1 zlib1g libbz2-1.0 liblzma5
    makedumpfile=("$root/$lib/ld-linux-x86-64.so.2" --library-path "$root/$lib" "$root/usr/bin/makedumpfile")
    "${makedumpfile[@]}" -v >/dev/null || { echo "makedumpfile does not run" >&2; exit 1; }
}

capture() {
    local what=${1%%:*} how flavour=amd64 architecture=amd64 options=() release to kernel
    how=${1#"$what"}
    case $how in
    :cloud) flavour=cloud-amd64 ;;
    :large) options=(--machine q35 --memory 3328) ;;
    :la57) options=(--cpu max) ;;
    :arm64)
        flavour=arm64 architecture=arm64
        options=(--qemu qemu-system-aarch64 --machine virt --cpu cortex-a72 --console ttyAMA0 --memory 384)
        ;;
    :wine)
        # Wine returns to its programs by `iret`, which QEMU 7.2 takes for an access of the kernel's to what is theirs.
        options=(--memory 512 --limit 400 --writable --cpu "max,la57=off,smap=off")
        [ -d "$work/wine" ] || make_wine
        ;;
    "") ;;
    *) echo "$1: none of :cloud, :large, :la57, :arm64 and :wine" >&2; exit 2 ;;
    esac
    release=$(release_of "$what" "$flavour")
    [ -n "$release" ] || { echo "$what: no such kernel" >&2; exit 1; }
    kernel=$work/kernels/$release
    [ -d "$kernel" ] || fetch_kernel "$release" "$kernel"
    case $how in
    :large | :la57 | :wine) to=$out/$release-${how#:} ;;
    *) to=$out/$release ;; # the release says it
    esac
    mkdir -p "$to"
    make_initrd "$release" "$kernel" >"$work/initrd"
    make_disk "$release" "$kernel" "$work/disk.img"
    "$here/capture.py" "$to" --kernel "$(find "$kernel" -name 'vmlinuz*')" --initrd "$work/initrd" --disk "$work/disk.img" \
        ${options[@]+"${options[@]}"}
    mv "$work/disk.img" "$to/disk"
    find "$kernel" -name 'vmlinuz*' -exec cp {} "$to/vmlinuz" \;
    [ "$architecture" != amd64 ] || "$here/count.py" "$to" "${makedumpfile[@]}"
}

install_programs
architecture=arm64 fetch_lists "${suites_arm64[@]}"
architecture=amd64
fetch_lists "${suites[@]}"
mkdir -p "$work/kernels"
fetch_makedumpfile
gcc -std=gnu11 -O2 -Wall -static -o "$work/init-amd64" "$here/init.c"
aarch64-linux-gnu-gcc -std=gnu11 -O2 -Wall -static -o "$work/init-arm64" "$here/init.c"
[ $# -gt 0 ] || set -- "${ci[@]}"
[ "$*" != all ] || set -- "${ci[@]}" "${others[@]}"
for what in "$@"; do
    capture "$what"
done
rm -rf "$work"
