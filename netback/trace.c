// SPDX-License-Identifier: GPL-2.0
/* The tracepoints, and functions for Rust to hit them. */
#include <linux/module.h>

#define CREATE_TRACE_POINTS
#include "netback_trace.h"
#include "netback_helpers.h"

void netback_do_trace_batch(unsigned int group, unsigned int queues,
			    unsigned int rx_frames, unsigned int tx_frames,
			    unsigned int pieces)
{
	trace_netback_batch(group, queues, rx_frames, tx_frames, pieces);
}

bool netback_trace_visit_enabled(void)
{
	return trace_netback_visit_enabled();
}

void netback_do_trace_visit(const char *dev, unsigned int queue, unsigned int group,
			    unsigned int rx_frames, unsigned int tx_frames)
{
	trace_netback_visit(dev, queue, group, rx_frames, tx_frames);
}

void netback_do_trace_fault(const char *dev, unsigned int queue, unsigned int domid,
			    const char *reason, unsigned int reason_len)
{
	trace_netback_fault(dev, queue, domid, reason, reason_len);
}

void netback_do_trace_stall(const char *dev, unsigned int queue, bool stalled)
{
	trace_netback_stall(dev, queue, stalled);
}

void netback_do_trace_credit(const char *dev, unsigned int queue, unsigned int len,
			     u64 wait_ns)
{
	trace_netback_credit(dev, queue, len, wait_ns);
}
