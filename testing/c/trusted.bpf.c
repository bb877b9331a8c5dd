// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The kernel's objects as arguments: of global functions, of callbacks, of kernel functions on sockets; and memory of a tracepoint.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

#define tag(name) __attribute__((btf_decl_tag("arg:" name)))
#define noinline __attribute__((noinline))
/* The compiler does not know what is done with the pointer. */
#define use(pointer) asm volatile("" : "+r"(pointer) : : "memory")

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));
struct task_struct___flavor {
	int pid;
} __attribute__((preserve_access_index));
struct vm_area_struct {
	unsigned long vm_start;
} __attribute__((preserve_access_index));
struct sock;
struct tcp_sock;

KFUNC struct task_struct *bpf_task_from_pid(int pid);
KFUNC void bpf_task_release(struct task_struct *task);
KFUNC int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk, void *attrs, int size);

noinline int takes_task(struct task_struct *task tag("trusted"))
{
	use(task);
	return task != 0;
}

noinline int takes_task_or_null(struct task_struct___flavor *task tag("trusted") tag("nullable"))
{
	use(task);
	return task ? 2 : 1;
}

noinline int takes_both_tags(struct task_struct *task tag("trusted") tag("nonnull"))
{
	use(task);
	return task != 0;
}

noinline int takes_memory_or_null(__u64 *memory tag("nullable"))
{
	use(memory);
	return memory ? *memory : 0;
}

noinline int releases(struct task_struct *task tag("trusted"))
{
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int ok_verdict_task_passed(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	int result;

	if (!task)
		return 0;
	result = takes_task(task) + takes_task_or_null((void *)task) + takes_task_or_null(0);
	bpf_task_release(task);
	return result;
}

SEC("tc")
int ok_verdict_perhaps_null_passed(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	int result = takes_task_or_null((void *)task);

	if (task)
		bpf_task_release(task);
	return result;
}

SEC("tc")
int bad_perhaps_null_passed(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	int result = takes_task(task);

	if (task)
		bpf_task_release(task);
	return result;
}

SEC("tc")
int bad_null_passed(struct __sk_buff *skb)
{
	return takes_task(0);
}

SEC("tc")
int bad_context_passed(struct __sk_buff *skb)
{
	return takes_task((void *)skb);
}

SEC("tc")
int bad_socket_passed(struct __sk_buff *skb)
{
	return takes_task_or_null((void *)skb->sk);
}

SEC("tc")
int bad_moved_task_passed(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	int result;

	if (!task)
		return 0;
	result = takes_task((void *)task + 8);
	bpf_task_release(task);
	return result;
}

SEC("tc")
int bad_tags(struct __sk_buff *skb)
{
	return takes_both_tags(0);
}

SEC("tc")
int bad_nullable_memory(struct __sk_buff *skb)
{
	__u64 word = 1;

	return takes_memory_or_null(&word);
}

SEC("tc")
int bad_release_of_a_passed_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (!task)
		return 0;
	releases(task);
	bpf_task_release(task);
	return 0;
}

static long look(struct task_struct *task, struct vm_area_struct *vma, void *data)
{
	*(int *)data += task && vma;
	return 0;
}

static long look_and_say_two(struct task_struct *task, struct vm_area_struct *vma, void *data)
{
	return 2;
}

static long write_vma(struct task_struct *task, struct vm_area_struct *vma, void *data)
{
	vma->vm_start = 1;
	return 0;
}

static long write_task(struct task_struct *task, struct vm_area_struct *vma, void *data)
{
	task->pid = 1;
	return 0;
}

#define find(callback) \
	struct task_struct *task = bpf_task_from_pid(1); \
	int data = 0; \
	if (!task) \
		return 0; \
	bpf_find_vma(task, 0, callback, &data, 0); \
	bpf_task_release(task); \
	return data

SEC("tc")
int ok_verdict_find_vma(struct __sk_buff *skb)
{
	find(look);
}

SEC("tc")
int bad_find_vma_result(struct __sk_buff *skb)
{
	find(look_and_say_two);
}

SEC("tc")
int bad_find_vma_writes_vma(struct __sk_buff *skb)
{
	find(write_vma);
}

SEC("tc")
int bad_find_vma_writes_task(struct __sk_buff *skb)
{
	find(write_task);
}

static __always_inline struct bpf_sock *listener(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple = {};

	return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), -1, 0);
}

SEC("tc")
int ok_verdict_assign_request(struct __sk_buff *skb)
{
	struct bpf_sock *skc = listener(skb);
	struct tcp_sock *tcp;
	__u64 attrs[3] = {};
	int result = 0;

	if (!skc)
		return 0;
	tcp = bpf_skc_to_tcp_sock(skc);
	if (tcp)
		result = bpf_sk_assign_tcp_reqsk(skb, (void *)tcp, attrs, sizeof(attrs));
	bpf_sk_release(skc);
	return result;
}

SEC("tc")
int ok_verdict_assign_full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u64 attrs[3] = {};

	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk ? bpf_sk_assign_tcp_reqsk(skb, (void *)sk, attrs, sizeof(attrs)) : 0;
}

SEC("tc")
int bad_assign_common_socket(struct __sk_buff *skb)
{
	struct bpf_sock *skc = listener(skb);
	__u64 attrs[3] = {};

	if (!skc)
		return 0;
	bpf_sk_assign_tcp_reqsk(skb, (void *)skc, attrs, sizeof(attrs));
	bpf_sk_release(skc);
	return 0;
}

SEC("tc")
int bad_assign_perhaps_null(struct __sk_buff *skb)
{
	struct bpf_sock *skc = listener(skb);
	__u64 attrs[3] = {};

	if (!skc)
		return 0;
	bpf_sk_assign_tcp_reqsk(skb, (void *)bpf_skc_to_tcp_sock(skc), attrs, sizeof(attrs));
	bpf_sk_release(skc);
	return 0;
}

SEC("tc")
int bad_assign_memory(struct __sk_buff *skb)
{
	__u64 attrs[3] = {};

	return bpf_sk_assign_tcp_reqsk(skb, (void *)attrs, attrs, sizeof(attrs));
}

SEC("tc")
int bad_assign_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	__u64 attrs[3] = {};

	if (!task)
		return 0;
	bpf_sk_assign_tcp_reqsk(skb, (void *)task, attrs, sizeof(attrs));
	bpf_task_release(task);
	return 0;
}

SEC("xdp")
int bad_assign_in_xdp(struct xdp_md *ctx)
{
	return bpf_sk_assign_tcp_reqsk((void *)ctx, 0, 0, 0);
}

SEC("tc")
int ok_verdict_assign_by_type(struct __sk_buff *skb)
{
	struct bpf_sock *skc = listener(skb);
	struct tcp_sock *tcp;
	int result = 0;

	if (!skc)
		return 0;
	tcp = bpf_skc_to_tcp_sock(skc);
	if (tcp)
		result = bpf_sk_assign(skb, tcp, 0);
	bpf_sk_release(skc);
	return result;
}

SEC("raw_tp.w/any")
int ok_verdict_tracepoint_memory(__u64 *ctx)
{
	__u32 *memory = (__u32 *)ctx[0];

	memory[5] = 1;
	return memory[1000];
}

SEC("raw_tp.w/any")
int bad_before_tracepoint_memory(__u64 *ctx)
{
	__u32 *memory = (__u32 *)ctx[0];

	return memory[-1];
}

SEC("raw_tp.w/any")
int bad_somewhere_in_tracepoint_memory(__u64 *ctx)
{
	char *memory = (char *)ctx[0];

	return memory[ctx[1] & 7];
}

SEC("raw_tp.w/any")
int bad_tracepoint_memory_for_a_helper(__u64 *ctx)
{
	return bpf_probe_read_kernel((void *)ctx[0], 8, ctx);
}

struct bpf_iter_task_vma {
	__u64 words[1];
} __attribute__((aligned(8)));
KFUNC int bpf_iter_task_vma_new(struct bpf_iter_task_vma *it, struct task_struct *task, __u64 address);
KFUNC struct vm_area_struct *bpf_iter_task_vma_next(struct bpf_iter_task_vma *it);
KFUNC void bpf_iter_task_vma_destroy(struct bpf_iter_task_vma *it);

SEC("tc")
int ok_verdict_all_vmas(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct vm_area_struct *vma;
	struct bpf_iter_task_vma it;
	int count = 0;

	if (!task)
		return 0;
	bpf_iter_task_vma_new(&it, task, 0);
	while ((vma = bpf_iter_task_vma_next(&it)))
		count++;
	bpf_iter_task_vma_destroy(&it);
	bpf_task_release(task);
	return count;
}

SEC("tc")
int bad_vma_is_written(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct vm_area_struct *vma;
	struct bpf_iter_task_vma it;

	if (!task)
		return 0;
	bpf_iter_task_vma_new(&it, task, 0);
	while ((vma = bpf_iter_task_vma_next(&it)))
		vma->vm_start = 1;
	bpf_iter_task_vma_destroy(&it);
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_vmas_not_left(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct bpf_iter_task_vma it;

	if (!task)
		return 0;
	bpf_iter_task_vma_new(&it, task, 0);
	bpf_task_release(task);
	return bpf_iter_task_vma_next(&it) != 0;
}

SEC("tc")
int bad_vmas_of_perhaps_nobody(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct bpf_iter_task_vma it;

	bpf_iter_task_vma_new(&it, task, 0);
	bpf_iter_task_vma_destroy(&it);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_vma_as_a_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct vm_area_struct *vma;
	struct bpf_iter_task_vma it;

	if (!task)
		return 0;
	bpf_iter_task_vma_new(&it, task, 0);
	vma = bpf_iter_task_vma_next(&it);
	if (vma)
		takes_task((void *)vma);
	bpf_iter_task_vma_destroy(&it);
	bpf_task_release(task);
	return 0;
}

SEC("xdp")
int bad_vma_read_before_the_test(struct xdp_md *ctx)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct bpf_iter_task_vma it;
	int result = 0;

	if (!task)
		return 0;
	bpf_iter_task_vma_new(&it, task, 0);
	result = takes_task((void *)bpf_iter_task_vma_next(&it));
	bpf_iter_task_vma_destroy(&it);
	bpf_task_release(task);
	return result;
}
