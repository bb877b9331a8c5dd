// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Objects of the kernel: tasks and control groups, owned by the path, kept in map values, or borrowed. `ok_verdict_` programs
// are accepted; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct task_struct {
	int pid;
};
struct cgroup;

struct shared {
	struct task_struct kptr *task;
	struct task_struct kptr_untrusted *borrowed;
	__u64 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shared);
} tasks SEC(".maps");

KFUNC struct task_struct *bpf_task_from_pid(int pid);
KFUNC struct task_struct *bpf_task_acquire(struct task_struct *task);
KFUNC void bpf_task_release(struct task_struct *task);
KFUNC struct cgroup *bpf_cgroup_from_id(__u64 id);
KFUNC void bpf_cgroup_release(struct cgroup *cgroup);

static __always_inline struct shared *find(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&tasks, &key);
}

SEC("tc")
int ok_verdict_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_task_is_lost(struct __sk_buff *skb)
{
	return bpf_task_from_pid(1) ? 1 : 0;
}

SEC("tc")
int bad_task_is_not_tested(struct __sk_buff *skb)
{
	bpf_task_release(bpf_task_from_pid(1));
	return 0;
}

SEC("tc")
int bad_null_is_released(struct __sk_buff *skb)
{
	bpf_task_release(0);
	return 0;
}

SEC("tc")
int bad_task_is_released_twice(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task) {
		bpf_task_release(task);
		bpf_task_release(task);
	}
	return 0;
}

SEC("tc")
int bad_task_is_no_cgroup(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task)
		bpf_cgroup_release((void *)task);
	return 0;
}

SEC("tc")
int bad_middle_of_a_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task)
		bpf_task_release((void *)task + 8);
	return 0;
}

SEC("tc")
int bad_middle_of_a_task_is_acquired(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1), *other;

	if (!task)
		return 0;
	other = bpf_task_acquire((void *)task + 8);
	if (other)
		bpf_task_release(other);
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_before_a_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1), *other;

	if (!task)
		return 0;
	other = bpf_task_acquire((void *)task - 8);
	if (other)
		bpf_task_release(other);
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_memory_as_task(struct __sk_buff *skb)
{
	__u64 word = 0;

	bpf_task_release((void *)&word);
	return 0;
}

SEC("tc")
int ok_verdict_task_in_a_field(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct shared *shared = find();

	if (!task)
		return 0;
	if (shared)
		task = bpf_kptr_xchg(&shared->task, task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int ok_verdict_task_of_a_field(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->task : 0;

	if (!task)
		return 0;
	task = bpf_task_acquire(task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_task_of_a_field_is_released(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->task : 0;

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_task_of_a_field_is_not_tested(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task;

	if (!shared)
		return 0;
	task = bpf_task_acquire(shared->task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_borrowed_task_is_acquired(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->borrowed : 0;

	if (!task)
		return 0;
	task = bpf_task_acquire(task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("syscall")
int bad_task_of_a_field_without_rcu(void *args)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->task : 0;

	if (!task)
		return 0;
	task = bpf_task_acquire(task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("syscall")
int ok_verdict_task_of_a_field_under_rcu(void *args)
{
	struct shared *shared = find();
	struct task_struct *task;

	if (!shared)
		return 0;
	bpf_rcu_read_lock();
	task = shared->task;
	if (task)
		task = bpf_task_acquire(task);
	bpf_rcu_read_unlock();
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("syscall")
int bad_task_of_a_field_after_rcu(void *args)
{
	struct shared *shared = find();
	struct task_struct *task;

	if (!shared)
		return 0;
	bpf_rcu_read_lock();
	task = shared->task;
	bpf_rcu_read_unlock();
	if (!task)
		return 0;
	task = bpf_task_acquire(task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_beside_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? bpf_kptr_xchg((void *)&shared->number, 0) : 0;

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_with_a_borrowed_task(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? bpf_kptr_xchg((void *)&shared->borrowed, 0) : 0;

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_somewhere(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? bpf_kptr_xchg((void *)shared + (skb->mark & 8), 0) : 0;

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_with_a_cgroup(struct __sk_buff *skb)
{
	struct cgroup *cgroup = bpf_cgroup_from_id(1);
	struct shared *shared = find();
	struct task_struct *task;

	if (!cgroup)
		return 0;
	if (!shared) {
		bpf_cgroup_release(cgroup);
		return 0;
	}
	task = bpf_kptr_xchg((void **)&shared->task, cgroup);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_with_an_untested_task(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct shared *shared = find();

	if (shared)
		task = bpf_kptr_xchg(&shared->task, task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_exchange_with_a_task_of_a_field(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->task : 0;

	if (!task)
		return 0;
	task = bpf_kptr_xchg(&shared->task, task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_task_after_the_exchange(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1), *old;
	struct shared *shared = find();

	if (!task)
		return 0;
	if (!shared) {
		bpf_task_release(task);
		return 0;
	}
	old = bpf_kptr_xchg(&shared->task, task);
	if (old)
		bpf_task_release(old);
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_half_of_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	return shared ? *(volatile __u32 *)&shared->task : 0;
}

SEC("tc")
int bad_field_and_its_neighbour(struct __sk_buff *skb)
{
	struct shared *shared = find();

	return shared ? *(volatile __u32 *)((void *)&shared->task + 4) : 0;
}

SEC("tc")
int bad_field_somewhere(struct __sk_buff *skb)
{
	struct shared *shared = find();

	return shared ? *(volatile __u64 *)((void *)&shared->task + (skb->mark & 8)) != 0 : 0;
}

SEC("tc")
int bad_atomic_on_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	if (shared)
		__sync_fetch_and_add((__u64 *)&shared->borrowed, 1);
	return 0;
}

SEC("tc")
int bad_number_in_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	if (shared)
		asm volatile("*(u64 *)(%0 + 8) = 5" :: "r"(shared) : "memory");
	return 0;
}

SEC("tc")
int ok_null_in_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	if (shared)
		asm volatile("*(u64 *)(%0 + 8) = 0" :: "r"(shared) : "memory");
	return 0;
}

SEC("tc")
int bad_unknown_number_in_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	if (shared)
		*(volatile __u64 *)&shared->borrowed = skb->mark;
	return 0;
}

SEC("tc")
int ok_verdict_task_is_lent(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct shared *shared = find();

	if (!task)
		return 0;
	if (shared)
		shared->borrowed = task;
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_cgroup_is_lent(struct __sk_buff *skb)
{
	struct cgroup *cgroup = bpf_cgroup_from_id(1);
	struct shared *shared = find();

	if (!cgroup)
		return 0;
	if (shared)
		shared->borrowed = (void *)cgroup;
	bpf_cgroup_release(cgroup);
	return 0;
}

SEC("tc")
int bad_middle_of_a_task_is_lent(struct __sk_buff *skb)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct shared *shared = find();

	if (!task)
		return 0;
	if (shared)
		shared->borrowed = (void *)task + 8;
	bpf_task_release(task);
	return 0;
}

SEC("tc")
int bad_helper_reads_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	return shared ? bpf_csum_diff(0, 0, (void *)shared, 8, 0) : 0;
}

SEC("tc")
int bad_helper_writes_the_field(struct __sk_buff *skb)
{
	struct shared *shared = find();

	return shared ? bpf_skb_load_bytes(skb, 0, shared, 8) : 0;
}

SEC("tc")
int bad_lent_task_is_given_back_by_its_field(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared ? shared->borrowed : 0;

	if (task)
		shared->task = task;
	return 0;
}

/* One path owns the task, the other has one of the field. */
SEC("tc")
int bad_either_task(struct __sk_buff *skb)
{
	struct shared *shared = find();
	struct task_struct *task = shared && skb->mark ? shared->task : bpf_task_from_pid(1);

	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("xdp")
int bad_context_as_task(struct xdp_md *xdp)
{
	bpf_task_release((void *)xdp);
	return 0;
}

SEC("syscall")
int bad_current_task_is_released(void *args)
{
	bpf_task_release((void *)bpf_get_current_task_btf());
	return 0;
}

SEC("syscall")
int ok_verdict_current_task_is_acquired(void *args)
{
	struct task_struct *task = bpf_task_acquire((void *)bpf_get_current_task_btf());

	if (task)
		bpf_task_release(task);
	return 0;
}
