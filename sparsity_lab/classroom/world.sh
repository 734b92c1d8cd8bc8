# Makes the small world of a sandbox and runs a command in it.
# $1: an empty folder for the new root; $2: the bytes that may be written; then what can be read, --, the command.
set -e
root=$1 written=$2; shift 2
# Files live in memory.
mount -t tmpfs -o "size=$written,nr_inodes=100k,mode=755,nosuid,nodev" tmpfs "$root"
mkdir -p -m 1777 "$root/tmp" "$root/home" "$root/var/tmp"; mkdir -p -m 1777 "$root/proc" "$root/dev/shm"
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
exec chroot "$root" "$@"
