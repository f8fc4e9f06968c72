package bpf

// The objects are committed: building needs neither clang nor kernel headers.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -target bpfel -type row -type slot -type io -type outlier -type source -type counters -type window -type made_up -cflags "-O2 -g -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" latency latency.bpf.c
//go:generate sh -c "cat kernel.bpf.h latency.bpf.c | sha256sum | cut -d' ' -f1 > latency.sha256"
