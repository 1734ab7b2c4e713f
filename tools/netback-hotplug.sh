#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Puts the network interface of a vif that was bound anew back where the old one was. udev runs it
# (90-netback.rules) with what xenbus says of the vif in the environment; so does
#
#	netback-hotplug BACKEND...	such as vif/3/0: these vifs
#
# When the toolstack makes a vif it runs the vif's script itself, and this does nothing. A vif that
# is bound while its frontend is connected, the toolstack does not hear of. The interface is made
# anew then: down, on no bridge, with an MTU of 1500; and the driver has deleted hotplug-status.
#
# netback-reload leaves behind in /run/netback/reload what the old interface was like. Without that,
# the vif's script is run, which has bridge, address and MTU from the toolstack's configuration.
set -u

saved=/run/netback/reload

# Whether the frontend is connected, and nobody has seen to the interface. Sets $script. A guest
# waits meanwhile, and every program that is run takes its time.
is_orphan() {
	# It ends with the first key that is not there.
	keys=$(xenstore-read "$1/frontend" "$1/script" "$1/hotplug-status" 2>/dev/null) && return 1
	frontend=${keys%%"$newline"*}
	script=${keys#"$frontend"}
	script=${script#"$newline"}
	# 4 is Connected; a frontend that is about to change its XDP headroom is in 7 or 8.
	case "$(xenstore-read "$frontend/state" 2>/dev/null)" in
	4 | 7 | 8) ;;
	*) return 1 ;;
	esac
	[ -n "$script" ] || ! xenstore-exists "$1/hotplug-status" 2>/dev/null
}
newline='
'

status=0
[ $# -gt 0 ] || set -- "${XENBUS_PATH:?say which vif}"
# Who reloads sees to all of them at once.
[ ! -e "$saved" ] || exit 0
for path; do
	XENBUS_PATH=${path#backend/}
	XENBUS_PATH=backend/$XENBUS_PATH
	rest=${XENBUS_PATH#backend/vif/}
	vif=vif${rest%/*}.${rest#*/}
	export XENBUS_PATH vif
	is_orphan "$XENBUS_PATH" || continue
	if [ ! -x "$script" ]; then
		echo "netback-hotplug: $vif has no hotplug script" >&2
		status=1
		continue
	fi
	# Scripts that route are told by the toolstack which interface has the gateway's address.
	case "$script" in
	*/vif-bridge) netdev= ;;
	*) netdev=$(xenstore-read "$XENBUS_PATH/gatewaydev" 2>/dev/null) ;;
	esac
	export netdev
	"$script" online type_if=vif || status=1
done
exit $status
