//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Where each block request's time goes: three block tracepoints, joined at completion with the
// stamps that a ublk server left in a shared array. All times are ns of CLOCK_MONOTONIC.
#include "kernel.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define OPS 5
#define SUB 16       // buckets of one power of two: 4 sub-bits, at most 6.25 % wide
#define TOP 40       // values from 2^TOP ns (18 min) on share the last bucket
#define BUCKETS ((TOP - 3) * SUB)
#define STAMPS 7     // in the order of enum stamp
#define NO_SLOT (~0u)
#define MAX_DEVICES 16
#define SOURCES 1024 // a power of two
#define SECOND 1000000000ull

enum stamp { PICKUP, BEGUN, LOGGED, DATA_DONE, PEER_SENT, PEER_ACKED, COMMIT };

enum stage {
	QUEUE,    // made (or inserted) → issued
	DISPATCH, // issued → picked up by the server
	SERVER_QUEUE, LOG, DATA, SENT, ACKED, COMMITTED, // what each stamp added to the latest one before it
	COMPLETE, // committed → complete
	DEVICE,   // issued → complete
	RING,     // issued → completion entry posted in the server's ring
	WAKE,     // posted → picked up
	TOTAL,    // made → complete
	FROM_RAM, FROM_LOG, FROM_DATA, FROM_PEER, // reads' totals, by the farthest place that a part came from
	STAGES,
};

enum counter { INSERTED, ISSUED, FAILED, PARTIAL, UNSEEN, MERGED, FULL, SLOW, SHED, COUNTERS };

// A histogram's count is that of its buckets.
struct hist {
	__u64 sum, max;
	__u64 low; // ~min, so that it begins with 0
	__u64 buckets[BUCKETS];
};

// What one CPU counted of one operation of one device.
struct row {
	struct hist stages[STAGES];
};

// One traced device. base and depth place its tags in slots; queues is 0 where no server stamps.
struct device {
	__u64 threshold; // ns; slower requests are outliers; 0: none are
	__u32 dev;       // the kernel's number of it; 0: none
	__u32 index, base, depth, queues;
	__u32 rate; // outliers a second
};

// A request in flight.
struct io {
	__u64 rq; // the kernel's; 0: none
	__u64 start, insert, issue;
	__u64 sector; // of 512 bytes
	__u32 bytes, device, op, slot;
};

// A tag's slot: a cache line that the server writes before it commits, which issue clears, and one for
// the request that has the tag.
struct slot {
	__u64 stamps[STAMPS];
	__u64 posted;
	struct io io;
	__u64 pad2;
};

struct outlier {
	struct io io;
	__u64 stamps[STAMPS];
	__u64 posted, complete;
	__u32 status, pad;
};

// A ring's source of completions: one queue of one device.
struct source {
	__u32 pid, id;
	__u32 base, depth; // its slots; depth 0: no source
};

struct counters {
	__u64 n[COUNTERS];
};

struct window {
	__u64 second, count; // of outliers
};

const volatile __u32 device_count = 1;

struct device devices[MAX_DEVICES] SEC(".data.devices");

// There has been an insert: requests may be in inflight before they are issued.
__u32 inserts SEC(".data.inserts");

#define B4(n) n, n, n, n
#define B16(n) B4(n), B4(n), B4(n), B4(n)
const __u8 log2_of[256] SEC(".rodata") = {0, 0, 1, 1, 2, 2, 2, 2, B4(3), B4(3), B16(4), B16(5), B16(5), B16(6), B16(6), B16(6), B16(6),
	B16(7), B16(7), B16(7), B16(7), B16(7), B16(7), B16(7), B16(7)};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// Each CPU's, by device and operation. One look-up finds all stages; a per-CPU value could not be as large.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OPS);
	__type(key, __u32);
	__type(value, struct row);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counts SEC(".maps");

// Requests that have no slot (yet).
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct io);
} inflight SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window);
} windows SEC(".maps");

// By the lowest bits of id.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOURCES);
	__type(key, __u32);
	__type(value, struct source);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} outliers SEC(".maps");

const struct outlier *unused_outlier __attribute__((unused));

static __always_inline void count(const struct device *d, enum counter c)
{
	__u32 key = d->index;
	struct counters *s = bpf_map_lookup_elem(&counts, &key);
	if (s)
		s->n[c]++;
}

static __always_inline __u64 bucket(__u64 ns)
{
	__u64 e = 0, v = ns;

	if (ns < SUB)
		return ns;
	if (ns >> TOP)
		return BUCKETS - 1;
	if (v >= 1 << 24) {
		v >>= 24;
		e = 24;
	}
	if (v >= 1 << 16) {
		v >>= 16;
		e += 16;
	} else if (v >= 1 << 8) {
		v >>= 8;
		e += 8;
	}
	e += log2_of[v & 255];
	return (e << 4) + (ns >> (e - 4)) - 4 * SUB; // the first of SUB buckets for 2^e is (e-3)*SUB, and ns >> (e-4) has SUB too much
}

// record is a global function so that the verifier looks at it once, not at each call in all the ways to it.
__noinline int record(struct hist *h, __u64 ns)
{
	__u64 b = bucket(ns);

	if (!h)
		return 0;
	if (ns > h->max)
		h->max = ns;
	if (~ns > h->low)
		h->low = ~ns;
	h->sum += ns;
	if (b < BUCKETS)
		h->buckets[b]++;
	return 0;
}

// served is where a read that a cache took came from.
static __always_inline enum stage served(const __u64 *stamps)
{
	return stamps[PEER_ACKED] ? FROM_PEER : stamps[DATA_DONE] ? FROM_DATA : stamps[LOGGED] ? FROM_LOG : FROM_RAM;
}

// allowed reports whether one more outlier fits into this second.
static __always_inline int allowed(const struct device *d, __u64 now)
{
	__u32 key = d->index;
	__u64 second = now / SECOND;
	struct window *w = bpf_map_lookup_elem(&windows, &key);

	if (!w)
		return 0;
	if (w->second != second) { // two CPUs may both begin it: a few more than rate get through
		w->second = second;
		w->count = 0;
	}
	return __sync_fetch_and_add(&w->count, 1) < d->rate;
}

// account joins what is known of a request that completes at now. A stage is what it added to
// the latest stamp before it, so that the stages of a request add up to its total.
static __always_inline void account(const struct device *d, const struct io *io, const struct slot *s, __u64 now, __u32 status)
{
	__u32 key = (bpf_get_smp_processor_id() * device_count + d->index) * OPS + io->op;
	__u64 at = io->issue, total = now - io->start;
	struct row *r = bpf_map_lookup_elem(&rows, &key);

	if (!r)
		return;
	if (status)
		count(d, FAILED);
	record(&r->stages[QUEUE], at - io->start);
	record(&r->stages[DEVICE], now - at);
	record(&r->stages[TOTAL], total);
	if (s && s->stamps[COMMIT]) {
		if (s->posted && s->posted >= at) {
			__u64 pickup = s->stamps[PICKUP] > s->posted ? s->stamps[PICKUP] : s->posted;
			record(&r->stages[RING], s->posted - at);
			record(&r->stages[WAKE], pickup - s->posted);
		}
#pragma unroll
		for (int i = 0; i < STAMPS; i++) {
			__u64 t = s->stamps[i], was = at;
			if (!t)
				continue;
			if (t > at)
				at = t > now ? now : t;
			record(&r->stages[DISPATCH + i], at - was);
		}
		record(&r->stages[COMPLETE], now - at);
		if (io->op == 0 && s->stamps[BEGUN])
			record(&r->stages[served(s->stamps)], total);
	}
	if (d->threshold && total >= d->threshold) {
		struct outlier *o;
		count(d, SLOW);
		o = allowed(d, now) ? bpf_ringbuf_reserve(&outliers, sizeof(*o), 0) : 0;
		if (!o) {
			count(d, SHED);
			return;
		}
		o->io = *io;
		o->posted = s ? s->posted : 0;
#pragma unroll
		for (int i = 0; i < STAMPS; i++)
			o->stamps[i] = s && s->stamps[COMMIT] ? s->stamps[i] : 0;
		o->complete = now;
		o->status = status;
		o->pad = 0;
		bpf_ringbuf_submit(o, 0);
	}
}

static __always_inline struct device *device_numbered(__u32 dev)
{
#pragma unroll
	for (int i = 0; i < MAX_DEVICES; i++) {
		if (i >= device_count)
			return 0;
		if (devices[i].dev == dev)
			return &devices[i];
	}
	return 0;
}

static __always_inline struct device *device_of(struct request *rq)
{
	struct gendisk *disk = rq->q->disk;

	if (!disk)
		return 0;
	return device_numbered((__u32)disk->major << 20 | (__u32)disk->first_minor);
}

// slot_of finds the slot of the tag that rq has; it must have been issued.
static __always_inline struct slot *slot_of(const struct device *d, struct request *rq, __u32 *i)
{
	struct blk_mq_hw_ctx *hctx;
	__u32 q, tag;

	if (!d->queues)
		return 0;
	hctx = rq->mq_hctx;
	q = hctx ? hctx->queue_num : NO_SLOT;
	tag = rq->tag;
	if (q >= d->queues || tag >= d->depth)
		return 0;
	*i = d->base + q * d->depth + tag;
	return bpf_map_lookup_elem(&slots, i);
}

// made is when rq was made; 0: nobody has noted it. With iostats=0 the time of the memory's last use is
// left in place. A flush's own request always has one.
static __always_inline __u64 made(struct request *rq, __u32 op)
{
	if (op != 2 && bpf_core_enum_value_exists(enum rqf_flags, __RQF_IO_STAT) &&
	    !(rq->rq_flags >> bpf_core_enum_value(enum rqf_flags, __RQF_IO_STAT) & 1))
		return 0;
	return rq->start_time_ns;
}

// describe fills io in; it fails for what is no block operation (a driver's own commands).
static __always_inline int describe(struct io *io, struct request *rq, const struct device *d)
{
	switch (rq->cmd_flags & 0xff) {
	case 0: io->op = 0; break; // read
	case 1: io->op = 1; break; // write
	case 2: io->op = 2; break; // flush
	case 3: // discard
	case 5: io->op = 3; break; // secure erase
	case 9: io->op = 4; break; // write zeroes
	default: return 0;
	}
	io->sector = io->op == 2 ? 0 : rq->__sector; // a flush has none
	io->bytes = rq->__data_len;
	io->device = d->index;
	io->start = made(rq, io->op);
	io->slot = NO_SLOT;
	return 1;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(on_insert, struct request *rq)
{
	struct device *d = device_of(rq);
	struct io io = {};
	__u64 key = (__u64)rq;

	if (!d || !describe(&io, rq, d))
		return 0;
	inserts = 1;
	io.rq = key;
	io.insert = bpf_ktime_get_ns();
	if (!io.start) // iostats=0
		io.start = io.insert;
	count(d, INSERTED);
	if (bpf_map_update_elem(&inflight, &key, &io, BPF_ANY))
		count(d, FULL);
	return 0;
}

// owner writes whose a slot is, last: who reads it meanwhile takes nothing half written for a request.
static __always_inline void owner(struct slot *s, __u64 rq)
{
	*(volatile __u64 *)&s->io.rq = rq;
}

enum { UNKNOWN = 1, KNOWN }; // to inflight

// issued fills io in, with what was known of rq when it was inserted; 0: it is not followed.
static __always_inline int issued(struct io *io, struct request *rq, const struct device *d)
{
	__u64 key = (__u64)rq;
	struct io *old = inserts ? bpf_map_lookup_elem(&inflight, &key) : 0;

	io->insert = old && !old->issue ? old->insert : 0;
	if (!describe(io, rq, d))
		return 0;
	io->issue = bpf_ktime_get_ns();
	if (!io->start || io->start > io->issue)
		io->start = io->insert ? io->insert : io->issue;
	count(d, ISSUED);
	return old ? KNOWN : UNKNOWN;
}

// follow puts a request that has no slot into inflight.
static __always_inline void follow(struct request *rq, const struct device *d)
{
	struct io io = {.rq = (__u64)rq};
	__u64 key = io.rq;

	if (issued(&io, rq, d) && bpf_map_update_elem(&inflight, &key, &io, BPF_ANY))
		count(d, FULL);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(on_issue, struct request *rq)
{
	struct device *d = device_of(rq);
	__u64 key = (__u64)rq;
	struct slot *s;
	int known;
	__u32 i;

	if (!d)
		return 0;
	s = slot_of(d, rq, &i);
	if (s) {
		owner(s, 0);
		known = issued(&s->io, rq, d);
		if (!known)
			return 0;
		s->io.slot = i;
		__builtin_memset(s->stamps, 0, sizeof(s->stamps));
		s->posted = 0;
		owner(s, key);
		if (known == KNOWN)
			bpf_map_delete_elem(&inflight, &key);
		return 0;
	}
	follow(rq, d);
	return 0;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_complete, struct request *rq, int status, unsigned int bytes)
{
	struct device *d = device_of(rq);
	__u64 key = (__u64)rq;
	struct slot *s;
	struct io *io;
	__u32 i;

	if (!d)
		return 0;
	if (bytes < rq->__data_len) {
		count(d, PARTIAL); // the rest follows
		return 0;
	}
	s = slot_of(d, rq, &i);
	if (s && s->io.rq == key) {
		account(d, &s->io, s, bpf_ktime_get_ns(), status & 0xff);
		owner(s, 0);
		return 0;
	}
	io = bpf_map_lookup_elem(&inflight, &key);
	if (!io) {
		count(d, UNSEEN); // issued before the probes were there, or the end of a flush sequence
		return 0;
	}
	if (io->issue)
		account(d, io, 0, bpf_ktime_get_ns(), status & 0xff);
	bpf_map_delete_elem(&inflight, &key);
	return 0;
}

// A request that the scheduler merged into another ends without completion.
SEC("tp_btf/block_rq_merge")
int BPF_PROG(on_merge, struct request *rq)
{
	struct device *d = device_of(rq);
	__u64 key = (__u64)rq;

	if (d && !bpf_map_delete_elem(&inflight, &key))
		count(d, MERGED);
	return 0;
}

static __always_inline int posted(__u64 user_data)
{
	__u32 id = user_data >> 48, tag = user_data & 0xffff, i = id & (SOURCES - 1);
	struct source *p = bpf_map_lookup_elem(&sources, &i);
	struct slot *s;

	if (!p || tag >= p->depth || p->id != id || p->pid != bpf_get_current_pid_tgid() >> 32)
		return 0;
	i = p->base + tag;
	s = bpf_map_lookup_elem(&slots, &i);
	if (s)
		s->posted = bpf_ktime_get_ns();
	return 0;
}

// Up to 6.12, and from 6.18 on: the probe's parameter count in BTF says which one to load.
SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_posted_7, void *ring, void *req, __u64 user_data)
{
	return posted(user_data);
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_posted_3, void *ring, void *req, struct io_uring_cqe *cqe)
{
	return posted(cqe->user_data);
}

// What tests run: account() on a request made up in user space. Never loaded by Open.
struct made_up {
	struct io io;
	struct slot slot;
	__u64 complete;
	__u32 dev, status;
	__u32 has_slot, pad;
};

SEC("syscall")
int test_account(struct made_up *m)
{
	struct device *d = device_numbered(m->dev);
	struct io io = m->io;
	struct slot slot = m->slot;

	if (!d || io.op >= OPS)
		return 1;
	account(d, &io, m->has_slot ? &slot : 0, m->complete, m->status);
	return 0;
}
