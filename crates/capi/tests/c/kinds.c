/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Programs of each kind, perf buffers, tail calls, attaching, .kconfig, sections that grow, subskeletons, threads. */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "check.h"
#include "said.h"

#define KINDS "crates/capi/tests/c/kinds.bpf.o"
#define CONFIG "# what a kernel has\nCONFIG_HZ=250\nCONFIG_BPF=y\nCONFIG_NAME=\"A name\"\nCONFIG_OTHER=m\n"

static struct bpf_object *open_kinds(const char *config)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kconfig = config);

	return bpf_object__open_file(KINDS, &opts);
}

/* Opened, with the section grown that one program needs, and loaded. */
static struct bpf_object *load_kinds(void)
{
	struct bpf_object *obj = open_kinds(CONFIG);

	CHECK(obj);
	SAME(bpf_map__set_value_size(bpf_object__find_map_by_name(obj, ".data.numbers"), 256), 0);
	SAME(bpf_object__load(obj), 0);
	return obj;
}

static int fd_of(struct bpf_object *obj, const char *name)
{
	return bpf_program__fd(bpf_object__find_program_by_name(obj, name));
}

static int run_xdp(int fd, __u32 cpu, __u32 *retval)
{
	static char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .flags = BPF_F_TEST_RUN_ON_CPU, .cpu = cpu);
	int err = bpf_prog_test_run_opts(fd, &opts);

	*retval = opts.retval;
	return err;
}

static void configuration(void)
{
	struct bpf_object *obj;
	struct bpf_map *map;
	unsigned int *values;
	size_t size;

	said[0] = 0;
	CHECK(!open_kinds("CONFIG_HZ=y\n") && errno == EINVAL);
	CHECK(!open_kinds("CONFIG_BPF=2\n") && errno == EINVAL);
	CHECK(!open_kinds("CONFIG_HZ=4294967296\n") && errno == EINVAL);
	CHECK(!open_kinds("CONFIG_NAME=bare\n") && errno == EINVAL);
	CHECK(strstr(said, "CONFIG_NAME: 'bare' does not fit the type that the object declares"));
	/* What is not given and not weak is missing at load. */
	obj = open_kinds("CONFIG_HZ=100\n");
	CHECK(obj);
	SAME(bpf_object__load(obj), -ESRCH);
	CHECK(strstr(said, "CONFIG_BPF"));
	bpf_object__close(obj);

	obj = load_kinds();
	map = bpf_object__find_map_by_name(obj, ".kconfig");
	values = (unsigned int *)bpf_map__initial_value(map, &size);
	CHECK(values && size >= 13);
	SAME(bpf_map__set_initial_value(map, values, size), -EBUSY);
	CHECK(strstr(said, "map 'pinned' is not pinned"));
	SAME(bpf_map__pin(bpf_object__find_map_by_name(obj, "pinned"), "/sys/fs/bpf/x"), -EOPNOTSUPP);
	bpf_object__close(obj);
}

static void syscall_and_raw_tracepoint(void)
{
	struct bpf_object *obj = load_kinds();
	__u64 sum[3] = { 40, 2, 0 }, args[2] = { 5, 6 }, *bss;

	bss = (__u64 *)bpf_map__initial_value(bpf_object__find_map_by_name(obj, ".bss"), NULL);
	CHECK(bss);
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = sum, .ctx_size_in = sizeof(sum));
		SAME(bpf_prog_test_run_opts(fd_of(obj, "add"), &opts), 0);
		SAME(opts.retval, 7);
		SAME(sum[2], 42);
		opts.repeat = 2;
		SAME(bpf_prog_test_run_opts(fd_of(obj, "add"), &opts), -EINVAL);
		opts.repeat = 0;
		opts.ctx_size_in = 8;
		SAME(bpf_prog_test_run_opts(fd_of(obj, "add"), &opts), -EINVAL);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = args, .ctx_size_in = sizeof(args));
		SAME(bpf_prog_test_run_opts(fd_of(obj, "raw"), &opts), 0);
		/* last_argument, hertz, total: HZ, a bool and the first letter. */
		CHECK(bss[0] + bss[1] + bss[2] == 6 + 250 + 1 + 'A');
		opts.flags = BPF_F_TEST_RUN_ON_CPU;
		opts.cpu = 1;
		SAME(bpf_prog_test_run_opts(fd_of(obj, "raw"), &opts), 0);
		opts.cpu = 100;
		SAME(bpf_prog_test_run_opts(fd_of(obj, "raw"), &opts), -ENXIO);
		opts.cpu = 0;
		opts.data_in = args;
		opts.data_size_in = 8;
		SAME(bpf_prog_test_run_opts(fd_of(obj, "raw"), &opts), -EINVAL);
	}
	bpf_object__close(obj);
}

static int samples, lost, last_cpu;

static void on_sample(void *ctx, int cpu, void *data, __u32 size)
{
	__u64 value;

	memcpy(&value, data, sizeof(value));
	CHECK(!strcmp((const char *)ctx, "mine") && size >= 8 && value == 0x1122334455667788);
	samples++;
	last_cpu = cpu;
}

static void on_lost(void *ctx, int cpu, __u64 count)
{
	(void)ctx;
	(void)cpu;
	lost += count;
}

static void perf_buffers(void)
{
	struct bpf_object *obj = load_kinds();
	int map = bpf_object__find_map_fd_by_name(obj, "events"), prog = fd_of(obj, "tell"), sent = 0;
	struct perf_buffer *buffer;
	struct pollfd event;
	__u32 retval;

	CHECK(!perf_buffer__new(map, 3, on_sample, on_lost, NULL, NULL) && errno == EINVAL);
	CHECK(!perf_buffer__new(prog, 1, on_sample, on_lost, NULL, NULL) && errno == EINVAL);
	SAME(run_xdp(prog, 0, &retval), 0);
	SAME(retval, 1 /* XDP_DROP: nobody listens */);
	buffer = perf_buffer__new(map, 1, on_sample, on_lost, (void *)"mine", NULL);
	CHECK(buffer);
	SAME(perf_buffer__buffer_cnt(buffer), 2);
	event.fd = perf_buffer__epoll_fd(buffer);
	event.events = POLLIN;
	SAME(poll(&event, 1, 0), 0);
	SAME(perf_buffer__poll(buffer, 0), 0);
	SAME(run_xdp(prog, 1, &retval), 0);
	SAME(retval, 2 /* XDP_PASS */);
	SAME(poll(&event, 1, 0), 1);
	SAME(perf_buffer__poll(buffer, -1), 1);
	CHECK(samples == 1 && last_cpu == 1);
	SAME(poll(&event, 1, 0), 0);
	/* More than fits is counted. */
	for (int i = 0; i < 1000; i++) {
		SAME(run_xdp(prog, 0, &retval), 0);
		sent += retval == 2;
	}
	CHECK(sent > 100 && sent < 1000);
	SAME(run_xdp(prog, 1, &retval), 0);
	SAME(perf_buffer__poll(buffer, 1000), 2);
	SAME(samples, 1 + sent + 1);
	SAME(lost, 1000 - sent);
	SAME(run_xdp(prog, 1, &retval), 0);
	SAME(perf_buffer__consume_buffer(buffer, 0), 0);
	SAME(samples, 2 + sent);
	SAME(perf_buffer__consume_buffer(buffer, 1), 0);
	SAME(samples, 3 + sent);
	SAME(perf_buffer__consume_buffer(buffer, 2), -EINVAL);
	perf_buffer__free(buffer);
	SAME(run_xdp(prog, 0, &retval), 0);
	SAME(retval, 1);
	bpf_object__close(obj);
}

static void tail_calls(void)
{
	struct bpf_object *obj = load_kinds();
	int stages = bpf_object__find_map_fd_by_name(obj, "stages"), prog = fd_of(obj, "sum"), slot = 1;
	struct bpf_prog_info info;
	__u32 retval, id, len = sizeof(info);

	SAME(run_xdp(fd_of(obj, "jump"), 0, &retval), 0);
	SAME(retval, 0 /* XDP_ABORTED: the slot is empty */);
	SAME(bpf_map_update_elem(stages, &slot, &prog, BPF_ANY), 0);
	SAME(run_xdp(fd_of(obj, "jump"), 0, &retval), 0);
	SAME(retval, 2);
	memset(&info, 0, sizeof(info));
	SAME(bpf_prog_get_info_by_fd(prog, &info, &len), 0);
	SAME(bpf_map_lookup_elem(stages, &slot, &id), 0);
	SAME(id, info.id);
	SAME(bpf_map_update_elem(stages, &slot, &stages, BPF_ANY), -EINVAL);
	prog = fd_of(obj, "add");
	SAME(bpf_map_update_elem(stages, &slot, &prog, BPF_ANY), -EINVAL);
	SAME(bpf_map_delete_elem(stages, &slot), 0);
	SAME(run_xdp(fd_of(obj, "jump"), 0, &retval), 0);
	SAME(retval, 0);
	bpf_program__unload(bpf_object__find_program_by_name(obj, "jump"));
	SAME(fd_of(obj, "jump"), -ENOENT);
	bpf_object__close(obj);
}

static void nothing_attaches(void)
{
	struct bpf_object *obj = load_kinds();
	struct bpf_program *prog = bpf_object__find_program_by_name(obj, "attached");

	said[0] = 0;
	CHECK(!bpf_program__attach(prog) && errno == EOPNOTSUPP);
	SAME(libbpf_get_error(NULL), -EOPNOTSUPP);
	CHECK(strstr(said, "program 'attached' is not attached: nothing of this process hangs on events of a kernel"));
	CHECK(!bpf_program__attach(NULL) && errno == EINVAL);
	CHECK(!bpf_program__attach_raw_tracepoint(prog, "sys_enter") && errno == EOPNOTSUPP);
	CHECK(!bpf_program__attach_xdp(prog, 1) && errno == EOPNOTSUPP);
	SAME(bpf_xdp_attach(1, 3, 0, NULL), -EOPNOTSUPP);
	SAME(bpf_link_create(3, 0, BPF_XDP, NULL), -EOPNOTSUPP);
	SAME(bpf_obj_get("/sys/fs/bpf/x"), -EOPNOTSUPP);
	bpf_object__close(obj);
}

/* A skeleton's tables as a header before libbpf 1.5 and one after 1.7 would have them. */
static void tables_of_other_sizes(void)
{
	struct {
		const char *name;
		struct bpf_program **prog;
		struct bpf_link **link;
		void *more;
	} progs[2] = { { 0, 0, 0, 0 } };
	struct bpf_program *attached = NULL, *raw = NULL;
	struct bpf_link *links[2] = { NULL, NULL };
	struct bpf_object_skeleton skel;
	static char elf[1 << 16];
	struct bpf_object *obj = NULL;
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kconfig = CONFIG);
	FILE *file = fopen(KINDS, "rb");

	memset(&skel, 0, sizeof(skel));
	skel.data = elf;
	skel.data_sz = fread(elf, 1, sizeof(elf), file);
	fclose(file);
	skel.name = "kinds";
	skel.obj = &obj;
	progs[0].name = "attached";
	progs[0].prog = &attached;
	progs[0].link = &links[0];
	progs[1].name = "raw";
	progs[1].prog = &raw;
	progs[1].link = &links[1];
	skel.progs = (struct bpf_prog_skeleton *)(void *)progs;
	skel.prog_cnt = 2;
	skel.prog_skel_sz = sizeof(progs[0]);
	SAME(bpf_object__open_skeleton(&skel, &opts), -EINVAL); /* no size */
	skel.sz = sizeof(skel) - 8;
	SAME(bpf_object__open_skeleton(&skel, &opts), -EINVAL);
	skel.sz = sizeof(skel);
	skel.prog_skel_sz = 16;
	SAME(bpf_object__open_skeleton(&skel, &opts), -EINVAL);
	skel.prog_skel_sz = sizeof(progs[0]);
	progs[1].name = "rav";
	SAME(bpf_object__open_skeleton(&skel, &opts), -ESRCH);
	CHECK(!obj);
	progs[1].name = "raw";
	SAME(bpf_object__load_skeleton(&skel), -EINVAL); /* not open */
	SAME(bpf_object__open_skeleton(&skel, &opts), 0);
	CHECK(obj && !strcmp(bpf_program__name(attached), "attached") && !strcmp(bpf_program__name(raw), "raw"));
	CHECK(!bpf_program__autoload(attached) && bpf_program__autoload(raw));
	SAME(bpf_map__set_value_size(bpf_object__find_map_by_name(obj, ".data.numbers"), 256), 0);
	SAME(bpf_program__set_autoload(attached, true), 0);
	SAME(bpf_object__load_skeleton(&skel), 0);
	said[0] = 0;
	SAME(bpf_object__attach_skeleton(&skel), -EOPNOTSUPP);
	CHECK(strstr(said, "program 'attached' is not attached to 'sys_enter'"));
	bpf_program__set_autoattach(attached, false);
	SAME(bpf_object__attach_skeleton(&skel), 0);
	bpf_object__detach_skeleton(&skel);
	bpf_object__close(obj);
}

static void sections_grow(void)
{
	struct bpf_object *obj = open_kinds(CONFIG);
	struct bpf_map *numbers = bpf_object__find_map_by_name(obj, ".data.numbers");
	struct bpf_map *rodata = bpf_object__find_map_by_name(obj, ".rodata"), *bss;
	__u32 *values, retval, length = 64;
	__u64 *results, expected = 0;
	size_t size;

	SAME(bpf_map__set_value_size(numbers, 0), -EINVAL);
	SAME(bpf_map__set_value_size(numbers, 256), 0);
	values = (__u32 *)bpf_map__initial_value(numbers, &size);
	SAME(size, 256);
	SAME(values[0], 1);
	SAME(values[63], 0);
	for (__u32 i = 0; i < 64; i++)
		expected += values[i] = i * 3 + 1;
	SAME(bpf_map__set_initial_value(rodata, &length, sizeof(length)), 0);
	SAME(bpf_object__load(obj), 0);
	CHECK(bpf_map__initial_value(numbers, NULL) == values);
	bss = bpf_object__find_map_by_name(obj, ".bss");
	results = (__u64 *)bpf_map__initial_value(bss, NULL);
	SAME(run_xdp(fd_of(obj, "sum"), 1, &retval), 0);
	CHECK(results[0] + results[1] + results[2] == expected);
	values[5] += 1000;
	SAME(run_xdp(fd_of(obj, "sum"), 0, &retval), 0);
	CHECK(results[0] + results[1] + results[2] == expected + 1000);

	/* A subskeleton looks into it. */
	{
		struct bpf_map *map_numbers = NULL, *map_bss = NULL;
		__u32 *first = NULL;
		__u64 *all = NULL;
		struct bpf_object_subskeleton *sub = (struct bpf_object_subskeleton *)calloc(1, sizeof(*sub));

		sub->sz = sizeof(*sub);
		sub->obj = obj;
		sub->map_cnt = 2;
		sub->map_skel_sz = sizeof(*sub->maps);
		sub->maps = (struct bpf_map_skeleton *)calloc(2, sizeof(*sub->maps));
		sub->maps[0].name = ".data.numbers";
		sub->maps[0].map = &map_numbers;
		sub->maps[1].name = ".bss";
		sub->maps[1].map = &map_bss;
		sub->var_cnt = 2;
		sub->var_skel_sz = sizeof(*sub->vars);
		sub->vars = (struct bpf_var_skeleton *)calloc(2, sizeof(*sub->vars));
		sub->vars[0].name = "numbers";
		sub->vars[0].map = &map_numbers;
		sub->vars[0].addr = (void **)&first;
		sub->vars[1].name = "total";
		sub->vars[1].map = &map_bss;
		sub->vars[1].addr = (void **)&all;
		SAME(bpf_object__open_subskeleton(sub), 0);
		CHECK(map_numbers == numbers && map_bss == bss && first == values);
		SAME(*all, expected + 1000);
		sub->vars[1].name = "totally";
		SAME(bpf_object__open_subskeleton(sub), -EINVAL);
		bpf_object__destroy_subskeleton(sub);
	}
	bpf_object__close(obj);
}

static struct bpf_object *shared;

static void *work(void *number)
{
	__u32 retval, cpu = (__u32)(long)number & 1, zero = 0;
	__u64 value;

	for (int round = 0; round < 30; round++) {
		struct bpf_object *own = load_kinds();

		for (int i = 0; i < 50; i++) {
			SAME(run_xdp(fd_of(shared, "sum"), cpu, &retval), 0);
			SAME(retval, 2);
			SAME(run_xdp(fd_of(own, "sum"), 1 - cpu, &retval), 0);
			SAME(bpf_map_update_elem(bpf_object__find_map_fd_by_name(own, "pinned"), &zero, &value, 0), 0);
			SAME(bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(shared, "pinned"), &zero, &value), 0);
		}
		bpf_object__close(own);
	}
	return NULL;
}

/* Open descriptors. */
static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* Mappings of files in memory. */
static int mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512];
	int count = 0;

	while (fgets(line, sizeof(line), file))
		count += strstr(line, "memfd:skep-map") != NULL;
	fclose(file);
	return count;
}

/* A closed object's maps, and the files that some of them have, go when no run can be in them any more, which is soon: what
 * stays after 10 s was leaked. */
static int settled(int (*count)(void), int wanted)
{
	for (int i = 0; i < 1000 && count() != wanted; i++)
		poll(NULL, 0, 10);
	return count();
}

static void threads(void)
{
	pthread_t all[4];
	int open_before;

	SAME(settled(mappings, 0), 0);
	open_before = descriptors();
	shared = load_kinds();
	for (long i = 0; i < 4; i++)
		SAME(pthread_create(&all[i], NULL, work, (void *)i), 0);
	for (int i = 0; i < 4; i++)
		SAME(pthread_join(all[i], NULL), 0);
	bpf_object__close(shared);
	SAME(settled(mappings, 0), 0);
	SAME(settled(descriptors, open_before), open_before);
}

int main(void)
{
	LIBBPF_OPTS(skep_opts, opts, .vcpus = 2);

	SAME(skep_configure(&opts), 0);
	libbpf_set_print(listen);
	configuration();
	syscall_and_raw_tracepoint();
	perf_buffers();
	tail_calls();
	nothing_attaches();
	tables_of_other_sizes();
	sections_grow();
	libbpf_set_print(NULL);
	threads();
	printf("ok\n");
	return 0;
}
