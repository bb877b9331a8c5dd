// Every kind of CO-RE relocation.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

enum state { STATE_A, STATE_B = 5 };
enum wide { WIDE = 0x123456789abcdefULL };

struct inner {
	int x;
	int y;
} __attribute__((preserve_access_index));

struct outer {
	long first;
	struct inner in[4];
	union {
		__u32 u;
		struct {
			__u16 lo;
			__s16 hi;
		};
	};
	unsigned int flag : 3;
	int signed_flag : 5;
	struct inner *ptr;
} __attribute__((preserve_access_index));

struct outer___v2 {
	long second;
} __attribute__((preserve_access_index));

struct absent {
	int nothing;
} __attribute__((preserve_access_index));

typedef struct inner inner_t;

SEC("raw_tp/sys_enter")
int relocations(struct bpf_raw_tracepoint_args *ctx)
{
	struct outer *o = (void *)ctx->args[0];
	struct absent *a = (void *)ctx->args[0];
	struct outer___v2 *v2 = (void *)ctx->args[0];
	__u64 sum = 0;

	sum += bpf_core_field_offset(o->in[2].y);
	sum += bpf_core_field_size(o->in);
	sum += bpf_core_field_exists(o->hi);
	sum += bpf_core_field_exists(a->nothing);
	sum += bpf_core_field_exists(v2->second);
	sum += BPF_CORE_READ_BITFIELD_PROBED(o, flag);
	sum += BPF_CORE_READ_BITFIELD_PROBED(o, signed_flag);
	sum += bpf_core_type_id_local(struct inner);
	sum += bpf_core_type_id_kernel(struct inner);
	sum += bpf_core_type_exists(inner_t);
	sum += bpf_core_type_exists(struct absent);
	sum += bpf_core_type_size(struct outer);
	sum += bpf_core_type_matches(struct inner);
	sum += bpf_core_enum_value_exists(enum state, STATE_B);
	sum += bpf_core_enum_value(enum state, STATE_B);
	sum += bpf_core_enum_value(enum wide, WIDE);
	sum += BPF_CORE_READ(o, ptr, y);
	return (int)sum;
}
