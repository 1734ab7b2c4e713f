#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Replaces the loaded network backend under running guests: by a newer build of itself, or by
# another driver. The guests' connections survive.
#
#	netback-reload [--from MODULE] [--load COMMAND]	all vifs, and the module
#	netback-reload --rebind vif-3-0 ...			only these vifs, and no module
#
# MODULE is the module to unload (default: whichever of netback and xen_netback is loaded),
# COMMAND loads its successor (default: modprobe netback).
#
# xenbus holds a reference on the module for every vif, so all of them are unbound first. With the
# driver goes the network interface, and hotplug-status. MTU, bridge and whether it was up are noted
# before and put back all at once. An interface that was on no bridge has routes, addresses and
# whatever else only the vif's own hotplug script knows: that is run again, as the toolstack did when
# the vif was made. Offloads that were switched are switched again at the end.
set -u

bus=/sys/bus/xen-backend
notes=/run/netback/reload
from=
load="modprobe netback"
rebind=

fail() {
	echo "netback-reload: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case "$1" in
	--from) from=$2; shift 2 ;;
	--load) load=$2; shift 2 ;;
	--rebind) shift; rebind=$*; break ;;
	*) fail "usage: netback-reload [--from MODULE] [--load COMMAND] | --rebind vif-DOMAIN-HANDLE..." ;;
	esac
done
if [ -z "$rebind" ] && [ -z "$from" ]; then
	for module in netback xen_netback; do
		[ -d "/sys/module/$module" ] && from=$module
	done
	[ -n "$from" ] || fail "no network backend is loaded; name it with --from"
fi

mkdir -p /run/netback
# While this is there, netback-hotplug leaves the interfaces to us.
mkdir "$notes" 2>/dev/null || fail "another reload is under way; if not, remove $notes"
# The kernel waits for grace periods again and again while a driver goes, ten milliseconds and more
# for each; it can be told to hurry.
rcu=/sys/kernel/rcu_expedited
hurried=
{ read -r hurried < "$rcu"; } 2>/dev/null
trap 'rm -rf "$notes"; [ -z "$hurried" ] || echo "$hurried" > "$rcu"' EXIT

# What can be switched of an interface, and how it is.
offloads() {
	ethtool -k "$1" 2>/dev/null | sed -n '/fixed/d; s/^[ 	]*\([a-z0-9-]*\): \(o[nf]*\)$/\1 \2/p'
}

# Takes a name like vif-3-0 apart.
names() {
	domid=${1#vif-}
	handle=${domid#*-}
	domid=${domid%-*}
	vif=vif$domid.$handle
	XENBUS_PATH=backend/vif/$domid/$handle
	export vif XENBUS_PATH
}

vifs=
for device in "$bus"/drivers/vif/vif-*; do
	[ -e "$device" ] || continue
	name=${device##*/}
	[ -z "$rebind" ] || case " $rebind " in
	*" $name "*) ;;
	*) continue ;;
	esac
	vifs="$vifs $name"
	names "$name"
	net=/sys/class/net/$vif
	: > "$notes/$name.ip"
	: > "$notes/$name.offloads"
	# One that was given another name is its script's business.
	[ -e "$net" ] || continue
	offloads "$vif" > "$notes/$name.offloads"
	read -r mtu < "$net/mtu"
	read -r flags < "$net/flags"
	{
		echo "link set $vif mtu $mtu"
		if [ -e "$net/master" ]; then
			master=$(readlink "$net/master")
			echo "link set $vif master ${master##*/}"
			[ $((flags & 1)) = 0 ] || echo "link set $vif up"
			: > "$notes/$name.bridged"
		fi
	} > "$notes/$name.ip"
done
[ -n "$vifs$from" ] || fail "none of these is bound: $rebind"

[ -z "$hurried" ] || echo 1 > "$rcu"

# From here on the guests wait, so as little is started as can be.
unbind() {
	{ echo "$1" > "$bus/drivers/vif/unbind" || : > "$notes/failed"; } 2>/dev/null
}
case "${vifs# }" in
*" "*)
	# Each of them waits a while for those who still use the interface: all at once.
	unbinding=
	for name in $vifs; do
		unbind "$name" &
		unbinding="$unbinding $!"
	done
	wait $unbinding
	;;
?*) unbind "${vifs# }" ;;
esac
[ ! -e "$notes/failed" ] || fail "some vif cannot be unbound"
if [ -z "$rebind" ]; then
	rmmod "$from" || fail "cannot unload $from"
	eval "$load" || fail "cannot load the successor with: $load"
fi

# Waits until the interface $vif is there, for up to 30 seconds.
await_interface() {
	tries=0
	until [ -e "/sys/class/net/$vif" ]; do
		tries=$((tries + 1))
		[ $tries -lt 1500 ] || return 1
		sleep 0.02
	done
}

status=0
back=
plugged=
for name in $vifs; do
	# The guest may have gone meanwhile.
	[ -e "$bus/devices/$name" ] || continue
	[ -e "$bus/devices/$name/driver" ] || echo "$name" > "$bus/drivers/vif/bind" 2>/dev/null
	names "$name"
	if ! await_interface; then
		echo "netback-reload: $vif does not come back" >&2
		status=1
		continue
	fi
	back="$back $name"
	while read -r line; do
		echo "$line"
	done < "$notes/$name.ip" >> "$notes/all"
	[ ! -e "$notes/$name.bridged" ] || plugged="$plugged $XENBUS_PATH/hotplug-status connected"
done
if [ -n "$back" ]; then
	ip -force -batch "$notes/all" || status=1
fi
[ -z "$plugged" ] || xenstore-write $plugged || status=1

# The guests are served again. What is left has time, and some of it only a script knows.
for name in $back; do
	names "$name"
	if [ ! -e "$notes/$name.bridged" ]; then
		script=$(xenstore-read "$XENBUS_PATH/script" 2>/dev/null)
		if [ -x "$script" ]; then
			"$script" online type_if=vif || status=1
		else
			ip link set "$vif" up
			xenstore-write "$XENBUS_PATH/hotplug-status" connected
		fi
	fi
	offloads "$vif" > "$notes/now"
	while read -r feature was; do
		grep -qx "$feature $was" "$notes/now" ||
			ethtool -K "$vif" "$feature" "$was" > /dev/null 2>&1
	done < "$notes/$name.offloads"
done
exit $status
