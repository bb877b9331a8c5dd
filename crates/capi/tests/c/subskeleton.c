/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A library's subskeleton on the object that the library was linked into. */
#include <stdbool.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "check.h"
#include "all.skel.h"
#include "lib.subskel.h"

static int run(struct bpf_program *prog)
{
	return run_on_cpu(bpf_program__fd(prog), 0, 1);
}

int main(void)
{
	struct all_bpf *all = all_bpf__open();
	struct lib_bpf *lib;
	__u32 key = 1, limits[2] = { 1, 100 };

	CHECK(all);
	CHECK(!lib_bpf__open(NULL) && errno == EINVAL);
	/* Before load, the variables are the initial values. */
	lib = lib_bpf__open(all->obj);
	CHECK(lib);
	SAME(*lib->data.lib_counter, 50);
	SAME(*lib->rodata.lib_limit, 3);
	*lib->data.lib_counter = 60;
	CHECK(lib->maps.shared_map == all->maps.shared_map && lib->maps.jumps == all->maps.jumps);
	CHECK(lib->progs.lib_target == all->progs.lib_target);
	lib_bpf__destroy(lib);

	SAME(all_bpf__load(all), 0);
	lib = lib_bpf__open(all->obj);
	CHECK(lib && lib->data.lib_counter == &all->data->lib_counter);
	SAME(*lib->data.lib_counter, 60);
	/* add(0, 0) is 11, the library's chosen(10) is 11, only_weak(2) is 42. */
	SAME(run(all->progs.first), 11 + 11 + 42);
	SAME(*lib->data.lib_counter, 63);
	*lib->data.lib_counter = -7;
	SAME(run(all->progs.first), 11 + 11 + 42);
	SAME(all->data->lib_counter, -4);
	SAME(run(lib->progs.lib_target), 39 + 'a');
	SAME((*lib->bss.lib_table)[0], 1);
	SAME(lib->bss.lib_node->weight, 1);
	SAME(bpf_map__update_elem(lib->maps.shared_map, &key, sizeof(key), limits, sizeof(limits), BPF_ANY), 0);
	SAME(run(all->progs.first), 111 + 11 + 42);
	/* Each CPU has its own of these variables: the map alone is there. */
	CHECK(lib->maps.percpu == all->maps.percpu);
	SAME(bpf_map__type(lib->maps.percpu), BPF_MAP_TYPE_PERCPU_ARRAY);
	/* The object is not the subskeleton's. */
	lib_bpf__destroy(lib);
	lib_bpf__destroy(NULL);
	SAME(run(all->progs.first), 111 + 11 + 42);
	all_bpf__destroy(all);
	printf("ok\n");
	return 0;
}
