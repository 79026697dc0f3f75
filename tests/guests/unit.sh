#!/usr/bin/env bash
# Boots a Debian system with systemd under QEMU and runs migd there by its unit, as its user and in its sandbox: it starts, takes a migration,
# starts one, drains when it is stopped, and comes back when it is killed.
#
#   tests/guests/unit.sh OUT KERNEL PROGRAMS
#
# KERNEL is a bzImage, PROGRAMS a folder with mig and migd, which may be debug builds. What the guest said is in OUT/serial.log.
# As root, without input, on Debian 12 with apt sources for bookworm. Installs what it needs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?where to}" && cd "$1" && pwd)
kernel=${2:?a kernel}
programs=${3:?a folder with mig and migd}
packaging=$here/../../service/packaging
root=$out/root

DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends mmdebstrap qemu-system-x86 cpio zstd >/dev/null

rm -rf "$root"
"$here/../../bench-harness/corpus/guest-sources.py" >"$out/guest.sources"
mmdebstrap --quiet --mode=root --variant=minbase --include=systemd-sysv \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    bookworm "$root" "$out/guest.sources" >"$out/mmdebstrap.log" 2>&1 || { tail -n 40 "$out/mmdebstrap.log" >&2; exit 1; }

# The unit as it is, and the example of a configuration with this one VM.
for program in mig migd; do
    strip -o "$root/usr/bin/$program" "$programs/$program"
done
mkdir -p "$root/etc/migd"
cp "$packaging/migd.service" "$root/etc/systemd/system/"
sed -e 's/0\.0\.0\.0:7000/127.0.0.1:7000/' -e '/^\[\[vm\]\]/,$d' "$packaging/migd.toml" >"$root/etc/migd/migd.toml"
cat >>"$root/etc/migd/migd.toml" <<'END'
[[vm]]
name = "desktop-17"
peers = ["here"]
image = "/var/lib/migd/arrived/desktop-17.raw"
replace = true
END
rm -rf "$out/keys"
"$programs/mig" keys "$out/keys" here=127.0.0.1 >/dev/null
cp -r "$out/keys/here" "$root/etc/migd/keys"
zstd -q -dc "$here/../data/sample.mem.zst" >"$root/srv/guest.raw"

mkdir -p "$root/etc/sysusers.d"
printf 'g kvm -\nu migd - - /var/lib/migd\n' >"$root/etc/sysusers.d/migd.conf"
cat >"$root/root/check.sh" <<'END'
set -ex
as_migd() { setpriv --reuid=migd --regid=migd --init-groups "$@"; }
get() {
    exec 3<>/dev/tcp/127.0.0.1/9750
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    head -n 1 <&3
    exec 3>&-
}
systemd-sysusers
chown -R migd:migd /etc/migd
systemctl start migd
systemctl is-active migd
[ "$(get /healthz)" = $'HTTP/1.0 200 OK\r' ]
[ "$(get /readyz)" = $'HTTP/1.0 200 OK\r' ]
as_migd mkdir /var/lib/migd/arrived
mig send /srv/guest.raw --vm desktop-17 --to 127.0.0.1:7000 --keys /etc/migd/keys
cmp /srv/guest.raw /var/lib/migd/arrived/desktop-17.raw
mig receive -o /root/back.raw --listen 127.0.0.1:7001 --keys /etc/migd/keys 2>/root/receive.log &
until grep -q '^waiting for' /root/receive.log; do sleep 0.2; done
as_migd mig send --daemon unix:/run/migd/control.sock /srv/guest.raw --vm desktop-17 --to 127.0.0.1:7001
wait
cmp /srv/guest.raw /root/back.raw
systemctl stop migd
[ "$(systemctl show migd -p Result --value)" = success ]
systemctl start migd
kill -KILL "$(systemctl show migd -p MainPID --value)"
sleep 3
systemctl is-active migd
[ "$(systemctl show migd -p NRestarts --value)" = 1 ]
systemd-analyze security migd --no-pager | tail -n 1
systemd-analyze security migd --no-pager --threshold=20 >/dev/null
echo THE-UNIT-WORKS
END
cat >"$root/etc/systemd/system/check.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'exec >/dev/ttyS0 2>&1; bash /root/check.sh || journalctl -u migd --no-pager | tail -n 50; poweroff -f'
END
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf /etc/systemd/system/check.service "$root/etc/systemd/system/multi-user.target.wants/"
ln -sf /lib/systemd/systemd "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) | gzip -1 >"$out/initrd.img"

rm -f "$out/serial.log"
timeout 200 qemu-system-x86_64 -machine pc -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 1536 -nodefaults -display none -nic none \
    -no-reboot -kernel "$kernel" -initrd "$out/initrd.img" -append "console=ttyS0 quiet systemd.unit=multi-user.target systemd.mask=serial-getty@ttyS0.service" \
    -serial "file:$out/serial.log" || true
grep -q '^THE-UNIT-WORKS' "$out/serial.log" || { tail -n 100 "$out/serial.log" >&2; exit 1; }
grep 'Overall exposure' "$out/serial.log"
