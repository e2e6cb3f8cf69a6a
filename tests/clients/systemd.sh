#!/usr/bin/env bash
# Starts Debian's own ssh.service, with only the path changed, under a real systemd: in namespaces of
# its own, on a copy of this system that is thrown away. Prints one line for each thing that holds.
#
#   tests/clients/systemd.sh target/debug/tidegate     (as root; systemd and its cgroup needed)
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    program=$(realpath "$1")
    folder=$(mktemp -d)
    name=tidegate-$$
    tree=/sys/fs/cgroup
    [ -e /sys/fs/cgroup/cgroup.procs ] || tree=/sys/fs/cgroup/systemd
    clean() {
        rm -rf "$folder"
        find "$tree/$name" -depth -type d -exec rmdir {} \; 2> /dev/null || true
        # Where cgroups are old, it made some in other trees; those that others use stay.
        rmdir /sys/fs/cgroup/*/{system.slice/*,system.slice,init.scope} 2> /dev/null || true
    }
    trap clean EXIT
    cp "$program" "$folder/tidegate"
    cp "$0" "$folder/script"
    (
        # A branch of its own, which is all that it sees.
        mkdir "$tree/$name"
        echo 0 > "$tree/$name/cgroup.procs"
        timeout -k 5 120 unshare --pid --mount --uts --ipc --cgroup --fork --kill-child \
            bash "$folder/script" --inside "$folder" > "$folder/boot" 2>&1 || true
    )
    cat "$folder/seen" 2>/dev/null || cat "$folder/boot"
    grep -q '^all of it$' "$folder/seen"
    exit
fi

folder=$2
if [ "${3:-}" != checks ]; then
    mount --make-rprivate /
    copy=$folder/copy
    mkdir "$copy"
    mount -t tmpfs tmpfs "$copy"
    mkdir "$copy"/{up,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$copy/up,workdir=$copy/work" "$copy/root"
    root=$copy/root
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t sysfs sysfs "$root/sys"
    if [ -e /sys/fs/cgroup/cgroup.procs ]; then
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    else
        mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
        mkdir "$root/sys/fs/cgroup/systemd"
        mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    fi
    mount -t tmpfs tmpfs "$root/run"
    mkdir -p "$root/out"
    mount --bind "$folder" "$root/out"
    units=$root/etc/systemd/system
    sed 's#/usr/sbin/sshd#/out/tidegate sshd#' "$root/lib/systemd/system/ssh.service" > "$units/ssh.service"
    echo 'SSHD_OPTS=-p 39022 -oListenAddress=127.0.0.1' > "$root/etc/default/ssh"
    [ -e "$root/etc/ssh/ssh_host_ed25519_key" ] \
        || ssh-keygen -q -N '' -t ed25519 -f "$root/etc/ssh/ssh_host_ed25519_key"
    printf '[Unit]\nWants=checks.service\nDefaultDependencies=no\nAllowIsolate=yes\n' > "$units/only.target"
    printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n%s\n%s\n' \
        'ExecStart=/bin/bash /out/script --inside /out checks' \
        'ExecStopPost=/bin/systemctl exit' > "$units/checks.service"
    export container=lxc
    exec chroot "$root" /lib/systemd/systemd --system --unit=only.target
fi

exec >> /out/seen 2>&1
mkdir -p /root/.ssh /root/k
chmod 700 /root/.ssh
ssh-keygen -q -N '' -t ed25519 -f /root/k/id
cp /root/k/id.pub /root/.ssh/authorized_keys

client() {
    ssh -F none -i /root/k/id -p 39022 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR root@127.0.0.1 "$@"
}
shows() { # UNIT PROPERTY VALUE
    local value
    value=$(systemctl show -p "$2" --value "$1")
    [ "$value" = "$3" ] || { echo "$1: $2 is $value and not $3"; exit 1; }
}
main() { systemctl show -p MainPID --value ssh.service; }
holds() { echo "holds: $1"; }

systemctl start ssh.service
shows ssh.service ActiveState active
[ "$(client echo served)" = served ]
holds 'it starts, says so (Type=notify) and serves'

before=$(main)
client 'sleep 4; echo outlived' > /root/outlived &
session=$!
sleep 1
systemctl reload ssh.service
[ "$(main)" = "$before" ]
wait "$session"
grep -q outlived /root/outlived
[ "$(client echo served)" = served ]
holds 'a reload keeps process and sessions'

before=$(main)
client 'sleep 6; echo outlived' > /root/outlived &
session=$!
sleep 1
systemctl kill --kill-whom=main -s USR2 ssh.service
sleep 3
[ "$(main)" = "$before" ]
[ "$(client echo served)" = served ]
wait "$session"
grep -q outlived /root/outlived
holds 'an upgrade keeps number and sessions'

echo 'Frobnicate yes' > /etc/ssh/sshd_config.d/wrong.conf
! systemctl reload ssh.service 2> /dev/null
rm /etc/ssh/sshd_config.d/wrong.conf
[ "$(client echo served)" = served ]
holds 'a reload with an error fails, and it serves on'

client 'sleep 6; echo outlived' > /root/outlived &
session=$!
sleep 1
systemctl restart ssh.service
[ "$(client echo served)" = served ]
systemctl stop ssh.service
shows ssh.service ActiveState inactive
systemctl start ssh.service
wait "$session"
grep -q outlived /root/outlived
[ "$(client echo served)" = served ]
holds 'it restarts, stops and starts, and sessions go on'

kill -KILL "$(main)"
sleep 2
shows ssh.service NRestarts 1
[ "$(client echo served)" = served ]
holds 'after a crash it is started again (Restart=on-failure)'

kill -QUIT "$(main)"
sleep 2
shows ssh.service ExecMainStatus 255
shows ssh.service ActiveState failed
holds 'after status 255 it is not (RestartPreventExitStatus)'

systemctl reset-failed ssh.service
systemctl start ssh.service
systemctl stop ssh.service
shows ssh.service ActiveState inactive
shows ssh.service ExecMainStatus 0
holds 'it stops'

printf '[Service]\nType=notify\nExecStart=/out/tidegate serve -f /root/served\nKillMode=mixed\nRestart=on-failure\n' \
    > /etc/systemd/system/served.service
printf 'Port 39022\nListenAddress 127.0.0.1\nHostKey /etc/ssh/ssh_host_ed25519_key\nTidegateDrainTime 20\n' > /root/served
systemctl daemon-reload
systemctl start served.service
before=$(systemctl show -p MainPID --value served.service)
client 'sleep 7; echo outlived' > /root/outlived &
session=$!
sleep 1
systemctl kill --kill-whom=main -s USR2 served.service
sleep 3
after=$(systemctl show -p MainPID --value served.service)
[ "$after" != "$before" ]
[ "$(client echo served)" = served ]
systemctl stop served.service
wait "$session"
grep -q outlived /root/outlived
shows served.service ActiveState inactive
systemctl start served.service
systemctl kill --kill-whom=main -s USR2 served.service
sleep 3
systemctl kill --kill-whom=main -s KILL served.service
sleep 2
shows served.service NRestarts 1
[ "$(client echo served)" = served ]
systemctl stop served.service
holds 'tidegate serve is watched by its new number, and a stop lets sessions of old programs finish'

mkdir -p /etc/systemd/system/ssh.socket.d
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:39022\n' > /etc/systemd/system/ssh.socket.d/port.conf
systemctl daemon-reload
systemctl start ssh.socket
shows ssh.service ActiveState inactive
[ "$(client echo served)" = served ]
shows ssh.service ActiveState active
systemctl restart ssh.service
[ "$(client echo served)" = served ]
systemctl stop ssh.service
[ "$(client echo served)" = served ]
systemctl stop ssh.socket ssh.service
holds 'ssh.socket starts it with the first connection'

printf '[Service]\nExecStart=-/out/tidegate sshd -i\nStandardInput=socket\n' > /etc/systemd/system/each@.service
printf '[Socket]\nListenStream=127.0.0.1:39022\nAccept=yes\n' > /etc/systemd/system/each.socket
systemctl daemon-reload
systemctl start each.socket
[ "$(client echo served)" = served ]
[ "$(client echo again)" = again ]
sleep 1
[ -z "$(systemctl list-units 'each@*' --no-legend --state=running)" ]
holds 'a process for each connection (Accept=yes) serves it and ends'
echo 'all of it'
