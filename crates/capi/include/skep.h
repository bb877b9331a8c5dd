/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libskep: BPF programs in this process, without a kernel of the right version and without root.
 *
 * Functions that begin with bpf_, ring_buffer__, ring__ and libbpf_ mean what libbpf's functions of that name mean;
 * those that begin with skep_ are this library's own. What differs is said beside each.
 *
 * Results
 *   int       0 or more, or -errno; errno is set as well
 *   pointers  NULL on error, with errno set
 *   others    0 or false on error, with errno set
 *   A NULL where something is needed is EINVAL. 4000 and more are LIBBPF_ERRNO__...; libbpf_strerror() has the words.
 *   Reasons go to the function of libbpf_set_print(), or to standard error.
 *
 * Options begin with their own size (`sz`, see LIBBPF_OPTS), so structs may grow: a shorter one is taken as zero from
 * there on, a longer one must be zero from there on.
 *
 * Memory
 *   bpf_object__close() ends every pointer to the object, its programs, its maps and into its data sections.
 *   A data section's memory keeps its address from open to close: the initial value before load, afterwards what programs
 *   read and write (.data, .bss), constants (.rodata), or still the initial value, read-only (.percpu).
 *
 * Descriptors
 *   bpf_map__fd() and bpf_program__fd() are real descriptors of this process, of files in memory: close() and dup() work,
 *   mmap() too for arrays with BPF_F_MMAPABLE. They are this library's, not bpf(2)'s: the bpf system call knows none of
 *   them. An object's own descriptors are closed with it; those of bpf_map_create() and ..._get_fd_by_id() by the caller.
 *
 * Threads
 *   Every function may be called by any thread, except that nobody uses an object that is being closed. A CPU is a virtual
 *   one: a thread gets a free one for the time of a run.
 *
 * Nothing attaches to a kernel: a program runs when bpf_prog_test_run_opts() runs it. An iterator is attached to a map and an
 * extension to a function of another program, in this process.
 */
#ifndef SKEP_H
#define SKEP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <linux/bpf.h>

/* The interface that is followed; a test with #if works as with libbpf's own header. */
#define LIBBPF_MAJOR_VERSION 1
#define LIBBPF_MINOR_VERSION 7

#ifndef LIBBPF_API
#define LIBBPF_API __attribute__((visibility("default")))
#endif
#define LIBBPF_DEPRECATED(msg) __attribute__((deprecated(msg)))

/* Declares NAME, a struct TYPE that knows its size and is zero but for the fields that are given. */
#define LIBBPF_OPTS(TYPE, NAME, ...)                                                                                   \
	struct TYPE NAME = ({                                                                                          \
		memset(&NAME, 0, sizeof(struct TYPE));                                                                 \
		(struct TYPE){ .sz = sizeof(struct TYPE), __VA_ARGS__ };                                               \
	})
#define DECLARE_LIBBPF_OPTS LIBBPF_OPTS

/* Makes NAME as new again, with the fields that are given. */
#define LIBBPF_OPTS_RESET(NAME, ...)                                                                                   \
	do {                                                                                                           \
		__typeof__(NAME) ___fresh = ({                                                                         \
			memset(&___fresh, 0, sizeof(NAME));                                                            \
			(__typeof__(NAME)){ .sz = sizeof(NAME), __VA_ARGS__ };                                         \
		});                                                                                                    \
		memcpy(&NAME, &___fresh, sizeof(NAME));                                                                \
	} while (0)

/* Flags that headers of older kernels lack. */
#ifndef BPF_F_CPU
#define BPF_F_CPU 8ULL /* the CPU is in bits 32 to 63 */
#endif
#ifndef BPF_F_ALL_CPUS
#define BPF_F_ALL_CPUS 16ULL
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_link;
struct btf;
struct ring_buffer;
struct ring;
struct perf_buffer;

/* ---- the engine ------------------------------------------------------------------------------------------------ */

enum skep_mode {
	SKEP_MODE_JIT = 0,    /* machine code */
	SKEP_MODE_INTERP = 1, /* the checked interpreter */
};

struct skep_opts {
	size_t sz;
	__u32 vcpus;         /* virtual CPUs; 0 for as many as the machine has */
	enum skep_mode mode;
};

/* Before anything else; -EBUSY once the engine runs. Without it SKEP_VCPUS and SKEP_MODE (jit, interp) of the environment
 * decide. */
LIBBPF_API int skep_configure(const struct skep_opts *opts);
LIBBPF_API const char *skep_version(void);

/* Virtual CPUs: as many values a per-CPU map has. Starts the engine. */
LIBBPF_API int libbpf_num_possible_cpus(void);

/* ---- errors and messages --------------------------------------------------------------------------------------- */

enum libbpf_errno {
	__LIBBPF_ERRNO__START = 4000,
	LIBBPF_ERRNO__LIBELF = __LIBBPF_ERRNO__START,
	LIBBPF_ERRNO__FORMAT,
	LIBBPF_ERRNO__KVERSION,
	LIBBPF_ERRNO__ENDIAN,
	LIBBPF_ERRNO__INTERNAL, /* a bug of the library */
	LIBBPF_ERRNO__RELOC,
	LIBBPF_ERRNO__LOAD,
	LIBBPF_ERRNO__VERIFY,
	LIBBPF_ERRNO__PROG2BIG,
	LIBBPF_ERRNO__KVER,
	LIBBPF_ERRNO__PROGTYPE,
	LIBBPF_ERRNO__WRNGPID,
	LIBBPF_ERRNO__INVSEQ,
	LIBBPF_ERRNO__NLPARSE,
	__LIBBPF_ERRNO__END,
};

enum libbpf_print_level {
	LIBBPF_WARN,
	LIBBPF_INFO,
	LIBBPF_DEBUG,
};

typedef int (*libbpf_print_fn_t)(enum libbpf_print_level level, const char *, va_list ap);

LIBBPF_API libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t fn);
LIBBPF_API int libbpf_strerror(int err, char *buf, size_t size);
LIBBPF_API long libbpf_get_error(const void *ptr);
LIBBPF_API __u32 libbpf_major_version(void);
LIBBPF_API __u32 libbpf_minor_version(void);
LIBBPF_API const char *libbpf_version_string(void);

/* There is one behaviour, that of libbpf 1, and no limit on locked memory. */
enum libbpf_strict_mode {
	LIBBPF_STRICT_ALL = 0xffffffff,
	LIBBPF_STRICT_NONE = 0x00,
};
LIBBPF_API int libbpf_set_strict_mode(enum libbpf_strict_mode mode);
LIBBPF_API int libbpf_set_memlock_rlim(size_t memlock_bytes);

/* ---- objects --------------------------------------------------------------------------------------------------- */

struct bpf_object_open_opts {
	size_t sz;
	const char *object_name;      /* instead of the file's name */
	bool relaxed_maps;            /* makes no difference */
	const char *pin_root_path;    /* nothing is pinned */
	__u32 : 32;
	const char *kconfig;          /* lines CONFIG_X=value for externs in .kconfig */
	const char *btf_custom_path;  /* types for CO-RE, instead of the object's own */
	char *kernel_log_buf;         /* for the verifier's log; its end if it is longer */
	size_t kernel_log_size;
	__u32 kernel_log_level;       /* 0: of refused programs only */
	const char *bpf_token_path;   /* no tokens are needed */
	size_t : 0;
};
#define bpf_object_open_opts__last_field bpf_token_path

LIBBPF_API struct bpf_object *bpf_object__open(const char *path);
LIBBPF_API struct bpf_object *bpf_object__open_file(const char *path, const struct bpf_object_open_opts *opts);
LIBBPF_API struct bpf_object *bpf_object__open_mem(const void *obj_buf, size_t obj_buf_sz,
						   const struct bpf_object_open_opts *opts);
/* All or nothing, once: after a failure the object can only be closed. */
LIBBPF_API int bpf_object__load(struct bpf_object *obj);
LIBBPF_API void bpf_object__close(struct bpf_object *object);

LIBBPF_API const char *bpf_object__name(const struct bpf_object *obj);
LIBBPF_API unsigned int bpf_object__kversion(const struct bpf_object *obj);
LIBBPF_API int bpf_object__set_kversion(struct bpf_object *obj, __u32 kern_version);

LIBBPF_API struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *obj, const char *name);
LIBBPF_API struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *obj, const char *name);
LIBBPF_API int bpf_object__find_map_fd_by_name(const struct bpf_object *obj, const char *name);

LIBBPF_API struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
LIBBPF_API struct bpf_program *bpf_object__prev_program(const struct bpf_object *obj, struct bpf_program *prog);
LIBBPF_API struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
LIBBPF_API struct bpf_map *bpf_object__prev_map(const struct bpf_object *obj, const struct bpf_map *map);

#define bpf_object__for_each_program(pos, obj)                                                                         \
	for ((pos) = bpf_object__next_program((obj), NULL); (pos) != NULL;                                             \
	     (pos) = bpf_object__next_program((obj), (pos)))
#define bpf_object__for_each_map(pos, obj)                                                                             \
	for ((pos) = bpf_object__next_map((obj), NULL); (pos) != NULL; (pos) = bpf_object__next_map((obj), (pos)))
#define bpf_map__for_each bpf_object__for_each_map

/* ---- programs -------------------------------------------------------------------------------------------------- */

struct bpf_insn;

LIBBPF_API const char *bpf_program__name(const struct bpf_program *prog);
LIBBPF_API const char *bpf_program__section_name(const struct bpf_program *prog);
LIBBPF_API const struct bpf_insn *bpf_program__insns(const struct bpf_program *prog);
LIBBPF_API size_t bpf_program__insn_cnt(const struct bpf_program *prog);
LIBBPF_API int bpf_program__fd(const struct bpf_program *prog); /* -ENOENT before load */
LIBBPF_API void bpf_program__unload(struct bpf_program *prog);

LIBBPF_API bool bpf_program__autoload(const struct bpf_program *prog);
LIBBPF_API int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
LIBBPF_API bool bpf_program__autoattach(const struct bpf_program *prog);
LIBBPF_API void bpf_program__set_autoattach(struct bpf_program *prog, bool autoattach);
LIBBPF_API enum bpf_prog_type bpf_program__type(const struct bpf_program *prog);
LIBBPF_API enum bpf_prog_type bpf_program__get_type(const struct bpf_program *prog);
LIBBPF_API int bpf_program__set_type(struct bpf_program *prog, enum bpf_prog_type type);
LIBBPF_API enum bpf_attach_type bpf_program__expected_attach_type(const struct bpf_program *prog);
LIBBPF_API enum bpf_attach_type bpf_program__get_expected_attach_type(const struct bpf_program *prog);
LIBBPF_API int bpf_program__set_expected_attach_type(struct bpf_program *prog, enum bpf_attach_type type);
LIBBPF_API __u32 bpf_program__flags(const struct bpf_program *prog);
LIBBPF_API int bpf_program__set_flags(struct bpf_program *prog, __u32 flags);
LIBBPF_API void bpf_program__set_ifindex(struct bpf_program *prog, __u32 ifindex); /* makes no difference */

/* The verifier's log, as for struct bpf_object_open_opts. */
LIBBPF_API __u32 bpf_program__log_level(const struct bpf_program *prog);
LIBBPF_API int bpf_program__set_log_level(struct bpf_program *prog, __u32 log_level);
LIBBPF_API const char *bpf_program__log_buf(const struct bpf_program *prog, size_t *log_size);
LIBBPF_API int bpf_program__set_log_buf(struct bpf_program *prog, char *log_buf, size_t log_size);

/* ---- maps ------------------------------------------------------------------------------------------------------ */

LIBBPF_API const char *bpf_map__name(const struct bpf_map *map);
LIBBPF_API int bpf_map__fd(const struct bpf_map *map); /* -1 before load */
LIBBPF_API int bpf_map__reuse_fd(struct bpf_map *map, int fd);
LIBBPF_API enum bpf_map_type bpf_map__type(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_type(struct bpf_map *map, enum bpf_map_type type);
LIBBPF_API __u32 bpf_map__key_size(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_key_size(struct bpf_map *map, __u32 size);
LIBBPF_API __u32 bpf_map__value_size(const struct bpf_map *map);
/* Of a data section whose last variable is an array too; its memory then moves: see bpf_map__initial_value(). */
LIBBPF_API int bpf_map__set_value_size(struct bpf_map *map, __u32 size);
LIBBPF_API __u32 bpf_map__max_entries(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
LIBBPF_API __u32 bpf_map__map_flags(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_map_flags(struct bpf_map *map, __u32 flags);
LIBBPF_API __u32 bpf_map__numa_node(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_numa_node(struct bpf_map *map, __u32 numa_node);
LIBBPF_API __u64 bpf_map__map_extra(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_map_extra(struct bpf_map *map, __u64 map_extra);
LIBBPF_API __u32 bpf_map__btf_key_type_id(const struct bpf_map *map);
LIBBPF_API __u32 bpf_map__btf_value_type_id(const struct bpf_map *map);
LIBBPF_API __u32 bpf_map__ifindex(const struct bpf_map *map); /* 0 */
LIBBPF_API int bpf_map__set_ifindex(struct bpf_map *map, __u32 ifindex);
LIBBPF_API bool bpf_map__is_internal(const struct bpf_map *map);
LIBBPF_API bool bpf_map__autocreate(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_autocreate(struct bpf_map *map, bool autocreate);
LIBBPF_API bool bpf_map__autoattach(const struct bpf_map *map);
LIBBPF_API int bpf_map__set_autoattach(struct bpf_map *map, bool autoattach);

/* The whole initial value of a data section, before load: of exactly its size. */
LIBBPF_API int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
LIBBPF_API void *bpf_map__initial_value(const struct bpf_map *map, size_t *psize);

/* Elements, with sizes checked: of a per-CPU map without flags, the values of all CPUs, each rounded up to 8 bytes. */
LIBBPF_API int bpf_map__lookup_elem(const struct bpf_map *map, const void *key, size_t key_sz, void *value,
				    size_t value_sz, __u64 flags);
LIBBPF_API int bpf_map__update_elem(const struct bpf_map *map, const void *key, size_t key_sz, const void *value,
				    size_t value_sz, __u64 flags);
LIBBPF_API int bpf_map__delete_elem(const struct bpf_map *map, const void *key, size_t key_sz, __u64 flags);
LIBBPF_API int bpf_map__lookup_and_delete_elem(const struct bpf_map *map, const void *key, size_t key_sz, void *value,
					       size_t value_sz, __u64 flags);
LIBBPF_API int bpf_map__get_next_key(const struct bpf_map *map, const void *cur_key, void *next_key, size_t key_sz);

/* ---- maps by descriptor ---------------------------------------------------------------------------------------- */

struct bpf_map_create_opts {
	size_t sz;
	__u32 btf_fd; /* no BTF is loaded: not looked at, nor are the type ids */
	__u32 btf_key_type_id;
	__u32 btf_value_type_id;
	__u32 btf_vmlinux_value_type_id;
	__u32 inner_map_fd;
	__u32 map_flags;
	__u64 map_extra;
	__u32 numa_node;
	__u32 map_ifindex;
	__s32 value_type_btf_obj_fd;
	__u32 token_fd;
	const void *excl_prog_hash;
	__u32 excl_prog_hash_size;
	size_t : 0;
};
#define bpf_map_create_opts__last_field excl_prog_hash_size

LIBBPF_API int bpf_map_create(enum bpf_map_type map_type, const char *map_name, __u32 key_size, __u32 value_size,
			      __u32 max_entries, const struct bpf_map_create_opts *opts);

/* Values of prog arrays and of maps of maps are descriptors to write, ids to read. */
LIBBPF_API int bpf_map_lookup_elem(int fd, const void *key, void *value);
LIBBPF_API int bpf_map_lookup_elem_flags(int fd, const void *key, void *value, __u64 flags);
LIBBPF_API int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
LIBBPF_API int bpf_map_delete_elem(int fd, const void *key);
LIBBPF_API int bpf_map_delete_elem_flags(int fd, const void *key, __u64 flags);
LIBBPF_API int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);
LIBBPF_API int bpf_map_lookup_and_delete_elem_flags(int fd, const void *key, void *value, __u64 flags);
LIBBPF_API int bpf_map_get_next_key(int fd, const void *key, void *next_key);
LIBBPF_API int bpf_map_freeze(int fd);

struct bpf_map_batch_opts {
	size_t sz;
	__u64 elem_flags;
	__u64 flags;
};
#define bpf_map_batch_opts__last_field flags

LIBBPF_API int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, __u32 *count,
				    const struct bpf_map_batch_opts *opts);
LIBBPF_API int bpf_map_lookup_and_delete_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values,
					       __u32 *count, const struct bpf_map_batch_opts *opts);
LIBBPF_API int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
				    const struct bpf_map_batch_opts *opts);
LIBBPF_API int bpf_map_delete_batch(int fd, const void *keys, __u32 *count, const struct bpf_map_batch_opts *opts);

LIBBPF_API int bpf_obj_get_info_by_fd(int bpf_fd, void *info, __u32 *info_len);
LIBBPF_API int bpf_map_get_info_by_fd(int map_fd, struct bpf_map_info *info, __u32 *info_len);
LIBBPF_API int bpf_prog_get_info_by_fd(int prog_fd, struct bpf_prog_info *info, __u32 *info_len);
LIBBPF_API int bpf_map_get_next_id(__u32 start_id, __u32 *next_id);
LIBBPF_API int bpf_prog_get_next_id(__u32 start_id, __u32 *next_id);
LIBBPF_API int bpf_map_get_fd_by_id(__u32 id);
LIBBPF_API int bpf_prog_get_fd_by_id(__u32 id);

/* ---- running --------------------------------------------------------------------------------------------------- */

struct bpf_test_run_opts {
	size_t sz;
	const void *data_in;
	void *data_out;
	__u32 data_size_in;
	__u32 data_size_out; /* room of data_out; afterwards the packet's length */
	const void *ctx_in;  /* of a syscall program: written back */
	void *ctx_out;
	__u32 ctx_size_in;
	__u32 ctx_size_out;  /* room of ctx_out; afterwards the context's length */
	__u32 retval;
	int repeat;
	__u32 duration;      /* nanoseconds of a run */
	__u32 flags;         /* BPF_F_TEST_RUN_ON_CPU: on this virtual CPU, for every program type */
	__u32 cpu;
	__u32 batch_size;    /* 0: there are no live frames */
};
#define bpf_test_run_opts__last_field batch_size

LIBBPF_API int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);

/* ---- ring buffers ---------------------------------------------------------------------------------------------- */

typedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size);

struct ring_buffer_opts {
	size_t sz;
};
#define ring_buffer_opts__last_field sz

LIBBPF_API struct ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample_cb, void *ctx,
						const struct ring_buffer_opts *opts);
LIBBPF_API void ring_buffer__free(struct ring_buffer *rb);
LIBBPF_API int ring_buffer__add(struct ring_buffer *rb, int map_fd, ring_buffer_sample_fn sample_cb, void *ctx);
/* Not from inside of a callback. */
LIBBPF_API int ring_buffer__poll(struct ring_buffer *rb, int timeout_ms);
LIBBPF_API int ring_buffer__consume(struct ring_buffer *rb);
LIBBPF_API int ring_buffer__consume_n(struct ring_buffer *rb, size_t n);
LIBBPF_API int ring_buffer__epoll_fd(const struct ring_buffer *rb);
LIBBPF_API struct ring *ring_buffer__ring(struct ring_buffer *rb, unsigned int idx);
LIBBPF_API unsigned long ring__consumer_pos(const struct ring *r);
LIBBPF_API unsigned long ring__producer_pos(const struct ring *r);
LIBBPF_API size_t ring__avail_data_size(const struct ring *r);
LIBBPF_API size_t ring__size(const struct ring *r);
LIBBPF_API int ring__map_fd(const struct ring *r);
LIBBPF_API int ring__consume(struct ring *r);

/* ---- perf buffers ---------------------------------------------------------------------------------------------- */

typedef void (*perf_buffer_sample_fn)(void *ctx, int cpu, void *data, __u32 size);
typedef void (*perf_buffer_lost_fn)(void *ctx, int cpu, __u64 cnt);

struct perf_buffer_opts {
	size_t sz;
	__u32 sample_period; /* makes no difference: the first sample after an empty ring wakes */
	size_t : 0;
};
#define perf_buffer_opts__last_field sample_period

LIBBPF_API struct perf_buffer *perf_buffer__new(int map_fd, size_t page_cnt, perf_buffer_sample_fn sample_cb,
						perf_buffer_lost_fn lost_cb, void *ctx,
						const struct perf_buffer_opts *opts);
LIBBPF_API void perf_buffer__free(struct perf_buffer *pb);
LIBBPF_API int perf_buffer__poll(struct perf_buffer *pb, int timeout_ms);
LIBBPF_API int perf_buffer__consume(struct perf_buffer *pb);
LIBBPF_API int perf_buffer__consume_buffer(struct perf_buffer *pb, size_t buf_idx);
LIBBPF_API int perf_buffer__epoll_fd(const struct perf_buffer *pb);
LIBBPF_API size_t perf_buffer__buffer_cnt(const struct perf_buffer *pb);
LIBBPF_API int perf_buffer__buffer_fd(const struct perf_buffer *pb, size_t buf_idx);

/* ---- names ----------------------------------------------------------------------------------------------------- */

LIBBPF_API const char *libbpf_bpf_attach_type_str(enum bpf_attach_type t);
LIBBPF_API const char *libbpf_bpf_map_type_str(enum bpf_map_type t);
LIBBPF_API const char *libbpf_bpf_prog_type_str(enum bpf_prog_type t);
LIBBPF_API int libbpf_prog_type_by_name(const char *name, enum bpf_prog_type *prog_type,
					enum bpf_attach_type *expected_attach_type);
LIBBPF_API int libbpf_attach_type_by_name(const char *name, enum bpf_attach_type *attach_type);
LIBBPF_API int libbpf_probe_bpf_prog_type(enum bpf_prog_type prog_type, const void *opts);

/* ---- skeletons: what generated headers call -------------------------------------------------------------------- */

struct bpf_map_skeleton {
	const char *name;
	struct bpf_map **map;
	void **mmaped;
	struct bpf_link **link;
};

struct bpf_prog_skeleton {
	const char *name;
	struct bpf_program **prog;
	struct bpf_link **link;
};

struct bpf_object_skeleton {
	size_t sz;
	const char *name;
	const void *data;
	size_t data_sz;
	struct bpf_object **obj;
	int map_cnt;
	int map_skel_sz; /* bytes from a row to the next */
	struct bpf_map_skeleton *maps;
	int prog_cnt;
	int prog_skel_sz;
	struct bpf_prog_skeleton *progs;
};

LIBBPF_API int bpf_object__open_skeleton(struct bpf_object_skeleton *s, const struct bpf_object_open_opts *opts);
LIBBPF_API int bpf_object__load_skeleton(struct bpf_object_skeleton *s);
/* -EOPNOTSUPP if a program's section names a place in a kernel. */
LIBBPF_API int bpf_object__attach_skeleton(struct bpf_object_skeleton *s);
LIBBPF_API void bpf_object__detach_skeleton(struct bpf_object_skeleton *s);
LIBBPF_API void bpf_object__destroy_skeleton(struct bpf_object_skeleton *s);

struct bpf_var_skeleton {
	const char *name;
	struct bpf_map **map;
	void **addr;
};

struct bpf_object_subskeleton {
	size_t sz;
	const struct bpf_object *obj;
	int map_cnt;
	int map_skel_sz;
	struct bpf_map_skeleton *maps;
	int prog_cnt;
	int prog_skel_sz;
	struct bpf_prog_skeleton *progs;
	int var_cnt;
	int var_skel_sz;
	struct bpf_var_skeleton *vars;
};

LIBBPF_API int bpf_object__open_subskeleton(struct bpf_object_subskeleton *s);
LIBBPF_API void bpf_object__destroy_subskeleton(struct bpf_object_subskeleton *s);

/* What bpf/skel_internal.h calls for light skeletons; see there. */
LIBBPF_API int skep_load_and_run(void *ctx, const void *data, __u32 data_sz, const void *insns, __u32 insns_sz,
				 const char **errstr);
LIBBPF_API void *skep_light_data(const void *value, size_t mmap_sz, size_t value_sz);
LIBBPF_API int skep_light_data_free(void *data); /* 0 for NULL */

/* ---- links: iterators over maps, and extensions in the place of functions --------------------------------------- */

struct bpf_iter_attach_opts {
	size_t sz;
	union bpf_iter_link_info *link_info; /* the map's descriptor */
	__u32 link_info_len;
	size_t : 0;
};
#define bpf_iter_attach_opts__last_field link_info_len

/* EBADF without a map, EACCES if the program reaches further than its elements. */
LIBBPF_API struct bpf_link *bpf_program__attach_iter(const struct bpf_program *prog,
						     const struct bpf_iter_attach_opts *opts);
/* What the iterator writes, to be read and closed. The walk is over on return: its error is this call's. */
LIBBPF_API int bpf_iter_create(int link_fd);

/*
 * An extension (SEC("freplace/...")) is verified for one function, chosen before load: of the program target_fd, the one that
 * is named or that the section names. It is attached to that one: with 0 and NULL, or by its name.
 */
LIBBPF_API int bpf_program__set_attach_target(struct bpf_program *prog, int attach_prog_fd,
					      const char *attach_func_name);
LIBBPF_API struct bpf_link *bpf_program__attach_freplace(const struct bpf_program *prog, int target_fd,
							 const char *attach_func_name);
/* An extension; for an iterator EBADF, for what hangs on a kernel EOPNOTSUPP. A skeleton's attach does the same. */
LIBBPF_API struct bpf_link *bpf_program__attach(const struct bpf_program *prog);

LIBBPF_API int bpf_link__destroy(struct bpf_link *link); /* puts the function back; 0 for NULL */
LIBBPF_API void bpf_link__disconnect(struct bpf_link *link); /* bpf_link__destroy leaves it attached */
LIBBPF_API int bpf_link__fd(const struct bpf_link *link);

/* ---- attaching to a kernel, and pinning: refused with EOPNOTSUPP ------------------------------------------------ */

struct bpf_perf_event_opts;
struct bpf_kprobe_opts;
struct bpf_kprobe_multi_opts;
struct bpf_ksyscall_opts;
struct bpf_uprobe_opts;
struct bpf_uprobe_multi_opts;
struct bpf_usdt_opts;
struct bpf_tracepoint_opts;
struct bpf_raw_tracepoint_opts;
struct bpf_trace_opts;
struct bpf_cgroup_opts;
struct bpf_netfilter_opts;
struct bpf_tcx_opts;
struct bpf_netkit_opts;

LIBBPF_API struct bpf_link *bpf_program__attach_perf_event(const struct bpf_program *prog, int pfd);
LIBBPF_API struct bpf_link *bpf_program__attach_perf_event_opts(const struct bpf_program *prog, int pfd,
								const struct bpf_perf_event_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_kprobe(const struct bpf_program *prog, bool retprobe,
						       const char *func_name);
LIBBPF_API struct bpf_link *bpf_program__attach_kprobe_opts(const struct bpf_program *prog, const char *func_name,
							    const struct bpf_kprobe_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_kprobe_multi_opts(const struct bpf_program *prog, const char *pattern,
								  const struct bpf_kprobe_multi_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_ksyscall(const struct bpf_program *prog, const char *syscall_name,
							 const struct bpf_ksyscall_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_uprobe(const struct bpf_program *prog, bool retprobe, pid_t pid,
						       const char *binary_path, size_t func_offset);
LIBBPF_API struct bpf_link *bpf_program__attach_uprobe_opts(const struct bpf_program *prog, pid_t pid,
							    const char *binary_path, size_t func_offset,
							    const struct bpf_uprobe_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_uprobe_multi(const struct bpf_program *prog, pid_t pid,
							     const char *binary_path, const char *func_pattern,
							     const struct bpf_uprobe_multi_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_usdt(const struct bpf_program *prog, pid_t pid, const char *binary_path,
						     const char *usdt_provider, const char *usdt_name,
						     const struct bpf_usdt_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_tracepoint(const struct bpf_program *prog, const char *tp_category,
							   const char *tp_name);
LIBBPF_API struct bpf_link *bpf_program__attach_tracepoint_opts(const struct bpf_program *prog, const char *tp_category,
								const char *tp_name,
								const struct bpf_tracepoint_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_raw_tracepoint(const struct bpf_program *prog, const char *tp_name);
LIBBPF_API struct bpf_link *bpf_program__attach_raw_tracepoint_opts(const struct bpf_program *prog, const char *tp_name,
								    struct bpf_raw_tracepoint_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_trace(const struct bpf_program *prog);
LIBBPF_API struct bpf_link *bpf_program__attach_trace_opts(const struct bpf_program *prog,
							   const struct bpf_trace_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_lsm(const struct bpf_program *prog);
LIBBPF_API struct bpf_link *bpf_program__attach_cgroup(const struct bpf_program *prog, int cgroup_fd);
LIBBPF_API struct bpf_link *bpf_program__attach_cgroup_opts(const struct bpf_program *prog, int cgroup_fd,
							    const struct bpf_cgroup_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_netns(const struct bpf_program *prog, int netns_fd);
LIBBPF_API struct bpf_link *bpf_program__attach_sockmap(const struct bpf_program *prog, int map_fd);
LIBBPF_API struct bpf_link *bpf_program__attach_xdp(const struct bpf_program *prog, int ifindex);
LIBBPF_API struct bpf_link *bpf_program__attach_netfilter(const struct bpf_program *prog,
							  const struct bpf_netfilter_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_tcx(const struct bpf_program *prog, int ifindex,
						    const struct bpf_tcx_opts *opts);
LIBBPF_API struct bpf_link *bpf_program__attach_netkit(const struct bpf_program *prog, int ifindex,
						       const struct bpf_netkit_opts *opts);
LIBBPF_API struct bpf_link *bpf_map__attach_struct_ops(const struct bpf_map *map);

LIBBPF_API int bpf_link__detach(struct bpf_link *link); /* as the kernel has it for these links */
LIBBPF_API struct bpf_link *bpf_link__open(const char *path);
LIBBPF_API int bpf_link__pin(struct bpf_link *link, const char *path);
LIBBPF_API int bpf_link__unpin(struct bpf_link *link);
LIBBPF_API const char *bpf_link__pin_path(const struct bpf_link *link);
LIBBPF_API int bpf_link__update_program(struct bpf_link *link, struct bpf_program *prog);
LIBBPF_API int bpf_link__update_map(struct bpf_link *link, const struct bpf_map *map);

struct bpf_xdp_attach_opts;
struct bpf_xdp_query_opts;
struct bpf_tc_hook;
struct bpf_tc_opts;
struct bpf_link_create_opts;

LIBBPF_API int bpf_xdp_attach(int ifindex, int prog_fd, __u32 flags, const struct bpf_xdp_attach_opts *opts);
LIBBPF_API int bpf_xdp_detach(int ifindex, __u32 flags, const struct bpf_xdp_attach_opts *opts);
LIBBPF_API int bpf_xdp_query(int ifindex, int flags, struct bpf_xdp_query_opts *opts);
LIBBPF_API int bpf_xdp_query_id(int ifindex, int flags, __u32 *prog_id);
LIBBPF_API int bpf_tc_hook_create(struct bpf_tc_hook *hook);
LIBBPF_API int bpf_tc_hook_destroy(struct bpf_tc_hook *hook);
LIBBPF_API int bpf_tc_attach(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
LIBBPF_API int bpf_tc_detach(const struct bpf_tc_hook *hook, const struct bpf_tc_opts *opts);
LIBBPF_API int bpf_tc_query(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
LIBBPF_API int bpf_prog_attach(int prog_fd, int attachable_fd, enum bpf_attach_type type, unsigned int flags);
LIBBPF_API int bpf_prog_detach(int attachable_fd, enum bpf_attach_type type);
LIBBPF_API int bpf_prog_detach2(int prog_fd, int attachable_fd, enum bpf_attach_type type);
LIBBPF_API int bpf_link_create(int prog_fd, int target_fd, enum bpf_attach_type attach_type,
			       const struct bpf_link_create_opts *opts);
LIBBPF_API int bpf_link_detach(int link_fd);
LIBBPF_API int bpf_raw_tracepoint_open(const char *name, int prog_fd);

/* A pin path is remembered; `pinning = LIBBPF_PIN_BY_NAME` in a map's definition is said to be passed over at load. */
LIBBPF_API int bpf_map__set_pin_path(struct bpf_map *map, const char *path);
LIBBPF_API const char *bpf_map__pin_path(const struct bpf_map *map);
LIBBPF_API const char *bpf_map__get_pin_path(const struct bpf_map *map);
LIBBPF_API bool bpf_map__is_pinned(const struct bpf_map *map);
LIBBPF_API int bpf_map__pin(struct bpf_map *map, const char *path);
LIBBPF_API int bpf_map__unpin(struct bpf_map *map, const char *path);
LIBBPF_API int bpf_program__pin(struct bpf_program *prog, const char *path);
LIBBPF_API int bpf_program__unpin(struct bpf_program *prog, const char *path);
LIBBPF_API int bpf_object__pin(struct bpf_object *object, const char *path);
LIBBPF_API int bpf_object__unpin(struct bpf_object *object, const char *path);
LIBBPF_API int bpf_object__pin_maps(struct bpf_object *obj, const char *path);
LIBBPF_API int bpf_object__unpin_maps(struct bpf_object *obj, const char *path);
LIBBPF_API int bpf_object__pin_programs(struct bpf_object *obj, const char *path);
LIBBPF_API int bpf_object__unpin_programs(struct bpf_object *obj, const char *path);
LIBBPF_API int bpf_obj_pin(int fd, const char *pathname);
LIBBPF_API int bpf_obj_get(const char *pathname);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SKEP_H */
