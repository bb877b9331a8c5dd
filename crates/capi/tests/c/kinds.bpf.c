// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A program of each kind that C runs, one that wants to be attached, and what is chosen before load.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct sum {
	__u64 left;
	__u64 right;
	__u64 total;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} stages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pinned SEC(".maps");

const volatile __u32 length = 1;
extern unsigned int CONFIG_HZ __kconfig;
extern _Bool CONFIG_BPF __kconfig;
extern char CONFIG_NAME[8] __kconfig __weak;

__u64 last_argument;
__u64 hertz;
__u64 total;
__u32 numbers[1] SEC(".data.numbers") = { 1 };

SEC("syscall")
int add(struct sum *ctx)
{
	ctx->total = ctx->left + ctx->right;
	hertz = CONFIG_HZ + CONFIG_BPF + CONFIG_NAME[0];
	return 7;
}

SEC("raw_tp")
int raw(struct bpf_raw_tracepoint_args *ctx)
{
	last_argument = ctx->args[1];
	return 0;
}

SEC("?raw_tp/sys_enter")
int attached(struct bpf_raw_tracepoint_args *ctx)
{
	return 0;
}

SEC("xdp")
int tell(struct xdp_md *ctx)
{
	__u64 sample = 0x1122334455667788;

	return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &sample, sizeof(sample)) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int jump(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &stages, 1);
	return XDP_ABORTED;
}

SEC("xdp")
int sum(struct xdp_md *ctx)
{
	__u32 *number = numbers;

	total = 0;
	for (__u32 i = 0; i < 64 && i < length; i++) {
		barrier_var(number);
		total += number[i];
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
