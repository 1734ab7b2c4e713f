/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: netback:netback_batch, _visit, _fault, _stall and _credit. What
 * they carry is described in Documentation/debugging.md.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM netback

#if !defined(NETBACK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define NETBACK_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(netback_batch,
	TP_PROTO(unsigned int group, unsigned int queues, unsigned int rx_frames,
		 unsigned int tx_frames, unsigned int pieces),
	TP_ARGS(group, queues, rx_frames, tx_frames, pieces),
	TP_STRUCT__entry(
		__field(unsigned int, group)
		__field(unsigned int, queues)
		__field(unsigned int, rx_frames)
		__field(unsigned int, tx_frames)
		__field(unsigned int, pieces)
	),
	TP_fast_assign(
		__entry->group = group;
		__entry->queues = queues;
		__entry->rx_frames = rx_frames;
		__entry->tx_frames = tx_frames;
		__entry->pieces = pieces;
	),
	TP_printk("group=%u queues=%u rx_frames=%u tx_frames=%u pieces=%u",
		  __entry->group, __entry->queues, __entry->rx_frames,
		  __entry->tx_frames, __entry->pieces)
);

TRACE_EVENT(netback_visit,
	TP_PROTO(const char *dev, unsigned int queue, unsigned int group,
		 unsigned int rx_frames, unsigned int tx_frames),
	TP_ARGS(dev, queue, group, rx_frames, tx_frames),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(unsigned int, queue)
		__field(unsigned int, group)
		__field(unsigned int, rx_frames)
		__field(unsigned int, tx_frames)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
		__entry->group = group;
		__entry->rx_frames = rx_frames;
		__entry->tx_frames = tx_frames;
	),
	TP_printk("dev=%s queue=%u group=%u rx_frames=%u tx_frames=%u", __get_str(dev),
		  __entry->queue, __entry->group, __entry->rx_frames,
		  __entry->tx_frames)
);

TRACE_EVENT(netback_fault,
	TP_PROTO(const char *dev, unsigned int queue, unsigned int domid,
		 const char *reason, unsigned int reason_len),
	TP_ARGS(dev, queue, domid, reason, reason_len),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(unsigned int, queue)
		__field(unsigned int, domid)
		__string_len(reason, reason, reason_len)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
		__entry->domid = domid;
		__assign_str(reason);
	),
	TP_printk("dev=%s queue=%u domid=%u reason=%s", __get_str(dev),
		  __entry->queue, __entry->domid, __get_str(reason))
);

TRACE_EVENT(netback_stall,
	TP_PROTO(const char *dev, unsigned int queue, bool stalled),
	TP_ARGS(dev, queue, stalled),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(unsigned int, queue)
		__field(bool, stalled)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
		__entry->stalled = stalled;
	),
	TP_printk("dev=%s queue=%u stalled=%d", __get_str(dev), __entry->queue,
		  __entry->stalled)
);

TRACE_EVENT(netback_credit,
	TP_PROTO(const char *dev, unsigned int queue, unsigned int len, u64 wait_ns),
	TP_ARGS(dev, queue, len, wait_ns),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(unsigned int, queue)
		__field(unsigned int, len)
		__field(u64, wait_ns)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
		__entry->len = len;
		__entry->wait_ns = wait_ns;
	),
	TP_printk("dev=%s queue=%u len=%u wait_ns=%llu", __get_str(dev),
		  __entry->queue, __entry->len, __entry->wait_ns)
);

#endif /* NETBACK_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE netback_trace
#include <trace/define_trace.h>
