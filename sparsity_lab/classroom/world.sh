# Makes the small world of a sandbox and runs a command in it.
# $1: an empty folder for the new root; $2: the one folder that can be written; then what can be read, --, the command.
set -e
root=$1 shared=$2; shift 2
# Files live in memory.
mount -t tmpfs -o size=256m,mode=755,nosuid,nodev tmpfs "$root"
mkdir -p -m 1777 "$root/tmp" "$root/home"; mkdir -p "$root/proc" "$root/dev/shm" "$root$shared"
for device in null zero full random urandom; do
  : > "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc" 2>/dev/null || true
while [ "$1" != -- ]; do
  if [ -L "$1" ]; then mkdir -p "$root${1%/*}"; cp -P "$1" "$root$1"
  elif [ -e "$1" ]; then
    mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; mount -o remount,bind,ro,nosuid,nodev "$root$1"
  fi; shift
done; shift
mount --bind "$shared" "$root$shared"
exec chroot "$root" "$@"
