#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Replaces the loaded network backend under running guests: by a newer build of itself, or by
# another driver. The guests' connections survive.
#
#	netback-reload [--from MODULE] [--load COMMAND]
#
# MODULE is the module to unload (default: whichever of netback and xen_netback is loaded),
# COMMAND loads its successor (default: modprobe netback).
#
# xenbus holds a reference on the module for every vif, so all of them are unbound first. The
# backend forgets hotplug-status and its network interface when it is unbound; so the vif's own
# hotplug script is run again, as the toolstack did when the vif was made.
set -u

bus=/sys/bus/xen-backend
from=
load="modprobe netback"

fail() {
	echo "netback-reload: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case "$1" in
	--from) from=$2; shift 2 ;;
	--load) load=$2; shift 2 ;;
	*) fail "usage: netback-reload [--from MODULE] [--load COMMAND]" ;;
	esac
done
if [ -z "$from" ]; then
	for module in netback xen_netback; do
		[ -d "/sys/module/$module" ] && from=$module
	done
fi
[ -n "$from" ] || fail "no network backend is loaded; name it with --from"

# Waits until the command "$@" succeeds, for up to 30 seconds.
await() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || return 1
		sleep 0.05
	done
}

vifs=
for device in "$bus"/drivers/vif/vif-*; do
	[ -e "$device" ] || continue
	name=${device##*/}
	# The bridge and the rest may have been changed since the script put the vif there.
	interface=$(echo "$name" | sed 's/^vif-\([0-9]*\)-\([0-9]*\)$/vif\1.\2/')
	master=$(readlink "/sys/class/net/$interface/master" 2>/dev/null)
	mtu=$(cat "/sys/class/net/$interface/mtu" 2>/dev/null)
	vifs="$vifs $name:${master##*/}:$mtu"
done

for entry in $vifs; do
	echo "${entry%%:*}" > "$bus/drivers/vif/unbind" || fail "cannot unbind ${entry%%:*}"
done
rmmod "$from" || fail "cannot unload $from"
eval "$load" || fail "cannot load the successor with: $load"

status=0
for entry in $vifs; do
	name=${entry%%:*}
	rest=${entry#*:}
	master=${rest%%:*}
	mtu=${rest#*:}
	# The guest may have gone meanwhile.
	[ -e "$bus/devices/$name" ] || continue
	if [ ! -e "$bus/devices/$name/driver" ]; then
		echo "$name" > "$bus/drivers/vif/bind" 2>/dev/null
	fi
	domid=${name#vif-}
	handle=${domid#*-}
	domid=${domid%-*}
	vif=vif$domid.$handle
	XENBUS_PATH=backend/vif/$domid/$handle
	export vif XENBUS_PATH
	if ! await test -e "/sys/class/net/$vif"; then
		echo "netback-reload: $vif does not come back" >&2
		status=1
		continue
	fi
	[ -z "$mtu" ] || ip link set "$vif" mtu "$mtu"
	script=$(xenstore-read "$XENBUS_PATH/script" 2>/dev/null)
	if [ -x "$script" ]; then
		"$script" online type_if=vif
	else
		[ -z "$master" ] || ip link set "$vif" master "$master"
		ip link set "$vif" up
		xenstore-write "$XENBUS_PATH/hotplug-status" connected
	fi
done
exit $status
