/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the probes read of the kernel's types; CO-RE finds the fields of the running kernel. */
#ifndef ROBIB_KERNEL_BPF_H
#define ROBIB_KERNEL_BPF_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define CORE __attribute__((preserve_access_index))

struct gendisk {
	int major;
	int first_minor;
} CORE;

struct request_queue {
	struct gendisk *disk;
} CORE;

struct blk_mq_hw_ctx {
	unsigned int queue_num;
} CORE;

struct request {
	struct request_queue *q;
	struct blk_mq_hw_ctx *mq_hctx;
	unsigned int cmd_flags;
	unsigned int rq_flags;
	int tag;
	unsigned int __data_len;
	__u64 __sector;
	__u64 start_time_ns;
} CORE;

enum rqf_flags {
	__RQF_IO_STAT = 8, /* the running kernel's value is asked for */
};

struct io_uring_cqe {
	__u64 user_data;
} CORE;

#endif
